"""Training from Python: a script, a notebook, another program."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from td3_brax.cli import coerce, load_config
from td3_brax.config import FIELDS, Config
from td3_brax.option import ConfigError, nearest
from td3_brax.policy import Policy, load_policy
from td3_brax.runs.run import Callback
from td3_brax.runs.signals import Signals
from td3_brax.runs.tracking import Report
from td3_brax.train import launch


@dataclass(frozen=True)
class Result:
    """A run that :func:`fit` has ended: its folder, and what is in it."""

    out: Path
    exit_code: int
    """0: whole. 130: stopped by Ctrl-C or the callback, and can go on. 1: diverged."""

    @property
    def config(self) -> Config:
        """All its options."""
        return Config(**load_config(str(self.out / "config.json")))

    @property
    def reports(self) -> list[Report]:
        """The lines of ``metrics.jsonl``, those before it was resumed too."""
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    def policy(self, which: str = "best") -> Policy:
        """The ``best`` or ``last`` greedy policy; raises :class:`td3_brax.PolicyError` without one."""
        return load_policy(self.out, which)


def fit(
    *, resume: str | os.PathLike[str] | None = None, callback: Callback | None = None, **options: Any
) -> Result:
    """Train, as ``td3-brax train`` does with the same options; blocks until the run ends.

    In the main thread Ctrl-C ends the run after its chunk, saved; before training, it is a KeyboardInterrupt.
    Computes in 32 bits, also where the caller's JAX is set to 64.

    Args:
        resume: the folder of a run to go on with, bit for bit.
        callback: takes each report, a line of ``metrics.jsonl``; returning True stops the run.
        options: fields of :class:`td3_brax.config.Config`, numbers NumPy's or Python's; the others are the
            preset's.
    Raises:
        ConfigError: an option that can't be used; nothing is written then.
    """
    began = time.perf_counter()
    for name, value in options.items():
        if name not in FIELDS:
            raise ConfigError(name, value, f"unknown option{nearest(name, FIELDS)}")
    explicit = {name: coerce(name, value) for name, value in options.items()}
    folder = None if resume is None else os.fspath(resume)
    import jax

    with Signals(owns_process=False) as signals, jax.enable_x64(False):
        code, out = launch(explicit, folder, signals, began, callback)
    return Result(out, code)
