"""Training from Python, in a script, a notebook or another program."""

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
    """The run that a call of :func:`fit` trained: its folder and the contents."""

    out: Path
    """Folder of the run."""
    exit_code: int
    """0: complete. 130: stopped by Ctrl-C or the callback; the run can be resumed. 1: diverged."""

    @property
    def config(self) -> Config:
        """All options of the run."""
        return Config(**load_config(str(self.out / "config.json")))

    @property
    def reports(self) -> list[Report]:
        """All lines of ``metrics.jsonl``, including those from before the run was resumed."""
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    def policy(self, which: str = "best") -> Policy:
        """Load a greedy policy of the run.

        Args:
            which: ``best`` or ``last``.
        Raises:
            td3_brax.PolicyError: the run has no such policy.
        """
        return load_policy(self.out, which)


def fit(
    *, resume: str | os.PathLike[str] | None = None, callback: Callback | None = None, **options: Any
) -> Result:
    """Train like ``td3-brax train`` with the same options; return when the run ends.

    Ctrl-C in the main thread ends the run after the current chunk and saves it. Before training has begun, it
    raises KeyboardInterrupt. Training is in 32 bits, even if the caller has set JAX to 64.

    Args:
        resume: folder of a run to resume; it continues bit for bit as if it had not stopped.
        callback: called with each report, a line of ``metrics.jsonl``. If it returns True, the run stops.
        options: fields of :class:`td3_brax.config.Config`, with Python or NumPy numbers. The preset sets the
            others.
    Raises:
        ConfigError: an unknown option, or a value that is not allowed. Nothing has been written.
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
