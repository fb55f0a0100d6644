"""``td3-brax train``: train a policy, in a new run or a resumed one."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from td3_brax.algorithm.schedule import make_schedule
from td3_brax.cli import guarded, parse_train
from td3_brax.config import Config
from td3_brax.option import ConfigError
from td3_brax.presets import CPU_DEVICES, resolve
from td3_brax.runs import folder, hosts, origin, resuming, tensorboard, wandb_run
from td3_brax.runs.device import platform, prepare_jax, resolve_devices
from td3_brax.runs.run import Callback, Run
from td3_brax.runs.signals import PREEMPTED, Signals


def job(argv: Sequence[str]) -> int:
    """Run ``td3-brax train`` with ``argv``; return the exit code."""
    began = time.perf_counter()
    explicit, resume = parse_train(argv)
    with Signals() as signals:
        try:
            code = launch(explicit, resume, signals, began)[0]
        except ConfigError as error:
            hosts.exit_at_once(f"td3-brax: {error}", 2)
            raise
        except hosts.HostLostError as error:
            hosts.exit_at_once(f"td3-brax: {error}", PREEMPTED)
            raise
        except Exception:  # JAX would wait for the other hosts, and they for this one
            hosts.exit_at_once(traceback.format_exc(), 1)
            raise
        hosts.leave()
        return code


def launch(
    explicit: Mapping[str, Any],
    resume: str | None,
    signals: Signals,
    began: float,
    callback: Callback | None = None,
) -> tuple[int, Path]:
    """Start or resume a run; return the exit code and the run's folder.

    Args:
        explicit: options that the user gave.
        resume: folder of the run to resume, ``auto`` or None.
        signals: handlers of the signals that stop a run.
        began: ``time.perf_counter()`` when the command began.
        callback: see :func:`td3_brax.fit`.
    Raises:
        ConfigError: an option or a value that is not allowed.
    """
    if mode := wandb_run.mode_from_environment():
        explicit = {"wandb": mode, **explicit}
    explicit = origin.absolute(explicit)
    all_devices = explicit.get("devices") == 0
    run = resuming.find_run(resume, explicit)
    if run is not None:
        explicit = resuming.resumed_options(run, explicit)
    wandb_run.check_environment(explicit.get("wandb", "disabled"), print)
    devices = explicit.get("devices", CPU_DEVICES)
    alone = devices == 1 or os.environ.get("WANDB_SWEEP_ID")
    num_hosts = 1 if alone else hosts.expected_processes(all_devices)
    if num_hosts == 1 < hosts.launched_processes() and not alone:
        print(
            "note: this is one of several processes, which each train their own run; "
            "with --devices all they train one run together"
        )
    join = hosts.join if num_hosts > 1 else lambda: None
    prepare_jax(explicit.get("deterministic", False), -(-devices // num_hosts), join)
    config = resolve_devices(resolve(explicit, platform()), explicit="devices" in explicit)
    make_schedule(config)
    tensorboard.check(config)
    if run is not None and resuming.is_finished(run, config):
        print(f"{run} is complete; nothing to do")
        return 0, run
    if not hosts.is_first():
        return _follow(config, run, signals, began, callback)
    if run is None:
        return _start(config, signals, began, callback)
    with folder.lock(run):
        start = resuming.find_start(run, print)
        begin = None if start else origin.load(config)
        if start is None:
            folder.restart(run, config)
        return Run(config, run, start, began, callback, begin).train(signals), run


def _start(config: Config, signals: Signals, began: float, callback: Callback | None) -> tuple[int, Path]:
    """Train a new run; remove its folder if it fails before it has learnt anything."""
    begin = origin.load(config)
    with folder.create_and_lock(config.out, f"{config.env}-{config.preset}-s{config.seed}") as out:
        folder.start_new(out, config, print)
        signals.new_folder = out
        try:
            return Run(config, out, None, began, callback, begin).train(signals), out
        except BaseException:
            folder.discard(out)
            raise


def _follow(
    config: Config, run: Path | None, signals: Signals, began: float, callback: Callback | None
) -> tuple[int, Path]:
    """Train on a host other than the first: take part in the run, and discard all files that it writes."""
    start = None if run is None else resuming.find_start(run, lambda _: None)
    begin = None if start else origin.load(config)
    config = dataclasses.replace(config, wandb="disabled", tensorboard=False, film=False)
    with tempfile.TemporaryDirectory() as discarded:
        code = Run(config, Path(discarded), start, began, callback, begin).train(signals)
    return code, run or Path(config.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
