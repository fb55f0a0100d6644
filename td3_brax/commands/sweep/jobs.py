"""From a sweep's options to a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from td3_brax.commands.sweep.file import Sweep
from td3_brax.option import show
from td3_brax.runs.jobs import Job

if TYPE_CHECKING:
    pass


def make_job(
    sweep: Sweep, number: int, options: Mapping[str, Any], where: str, mode: str, **rest: Any
) -> Job:
    """The run that ``options`` stand for; raises :class:`SweepError` where they can't be used."""
    config = dataclasses.replace(sweep.config(options, where), wandb=mode)
    varied = " ".join(f"--{name}={show(options[name])}" for name in sweep.varied if name in options)
    return Job(number, config, varied, **rest)
