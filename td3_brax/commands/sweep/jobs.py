"""Turn the options of a sweep's run into a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from td3_brax.commands.sweep.file import Sweep
from td3_brax.option import show
from td3_brax.runs.jobs import Job


def make_job(
    sweep: Sweep, number: int, options: Mapping[str, Any], platform: str, mode: str, **rest: Any
) -> Job:
    """Make the job with number ``number`` from a run's ``options``.

    Args:
        platform: the platform that presets are resolved for.
        mode: W&B's mode.
        rest: further fields of the job.
    Raises:
        SweepError: the options can't be used.
    """
    config = dataclasses.replace(sweep.config(options, platform), wandb=mode)
    varied = " ".join(f"--{name}={show(options[name])}" for name in sweep.varied if name in options)
    return Job(number, config, varied, **rest)
