"""One member of a pack, and what all packs share."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from td3_brax.runs import folder, resuming
from td3_brax.runs.jobs import Job
from td3_brax.runs.journal import Journal, Seat
from td3_brax.runs.record import Record
from td3_brax.runs.signals import Signals
from td3_brax.runs.tracking import Report
from td3_brax.runs.wandb_run import Membership, WandbRun


class Member:
    """A job in its place, from its start or as a checkpoint has it."""

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
        if seat:
            resuming.restore_files(out, self.config, seat.files)
            self.began -= seat.outcome.wall_s
        else:
            folder.start_new(out, self.config, line)
        wandb = None
        if job.config.wandb != "disabled":
            wandb = WandbRun(self.config, out, wandb_id, self.stop.set, line, membership)
        self.record = Record(self.config, out, line, wandb, seat.outcome if seat else None)
        self.trained_s = seat.trained_s if seat else 0.0
        self.evaluated_s = seat.evaluated_s if seat else 0.0
        if seat:
            self.record.resume(*seat.tail)
        self.last: Report = {}


@dataclass(frozen=True)
class Shared:
    """What packs that follow each other share."""

    out: Path
    """The folder of all, with their journal."""
    line: Callable[[str], None]
    """Takes a line for people."""
    make_membership: Callable[[Job], Membership]
    """What W&B is told of a job's run."""
    signals: Signals
    journal: Journal
    metric: str
    """Of a report, which is kept of each member's last."""
