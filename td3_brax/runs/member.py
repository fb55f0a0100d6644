"""A member of a pack, and the settings that all packs of a sweep share."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from td3_brax.runs import folder, origin, resuming
from td3_brax.runs.jobs import Job
from td3_brax.runs.journal import Journal, Seat
from td3_brax.runs.record import Record
from td3_brax.runs.signals import Signals
from td3_brax.runs.tracking import Report
from td3_brax.runs.wandb_run import Membership, WandbRun


class Member:
    """A job that trains in a place of a pack, started anew or resumed from a checkpoint's ``seat``."""

    def __init__(
        self,
        job: Job,
        out: Path,
        line: Callable[[str], None],
        membership: Membership,
        wandb_id: str | None,
        seat: Seat | None = None,
    ) -> None:
        self.job, self.began = job, time.perf_counter()
        self.config = dataclasses.replace(job.config, out=str(out))
        self.stop = threading.Event()
        self.origin = None if seat else origin.load(self.config)
        if seat:
            resuming.restore_files(out, self.config, seat.files)
            self.began -= seat.outcome.wall_s
        else:
            folder.start_new(out, self.config, line)
        wandb = None
        if job.config.wandb != "disabled":
            wandb = WandbRun(self.config, out, wandb_id, self.stop.set, line, membership)
        self.record = Record(self.config, out, line, wandb, seat.outcome if seat else None, self.origin)
        self.trained_s = seat.trained_s if seat else 0.0
        self.evaluated_s = seat.evaluated_s if seat else 0.0
        if seat:
            self.record.resume(*seat.tail)
        self.last: Report = {}


@dataclass(frozen=True)
class Shared:
    """The settings that all packs of a sweep share."""

    out: Path
    """The folder of the sweep."""
    line: Callable[[str], None]
    """Print a line for people."""
    make_membership: Callable[[Job], Membership]
    """Make the W&B settings of a job's run."""
    signals: Signals
    journal: Journal
    metric: str
    """Name of the sweep's metric, whose last value is kept for each member."""
