"""The runs of a sweep, and the groups of runs that can share one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from td3_brax.config import Config


@dataclass
class Job:
    """One run of a sweep."""

    number: int
    config: Config
    varied: str
    """The options that the sweep varies, as typed on the command line."""
    run_id: str | None = None
    """Id of its W&B run, if W&B has chosen one."""
    stopped: Callable[[], bool] = lambda: False
    """Return whether W&B wants the run to stop."""


class Source:
    """A source of jobs for the places of a pack."""

    def take(self, place: int) -> Job | None:
        """Return the next job for this place; None if there is none now."""
        raise NotImplementedError

    def ended(self, place: int) -> None:
        """Note that the job in this place has ended."""
        raise NotImplementedError

    @property
    def exhausted(self) -> bool:
        """Return whether there will be no more jobs."""
        raise NotImplementedError


class Queue(Source):
    """A source with a fixed list of jobs."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._left = list(jobs)

    def take(self, place: int) -> Job | None:
        """Return the next job."""
        return self._left.pop(0) if self._left else None

    def ended(self, place: int) -> None:
        """Do nothing: the list is fixed."""

    @property
    def exhausted(self) -> bool:
        """Return whether all jobs are taken."""
        return not self._left


def count_places(runs: int, max_members: int, devices: int) -> int:
    """Return how many members train at once.

    The runs take as few turns of at most ``max_members`` as possible, all of the same size. The size is
    rounded up so that every device gets the same number of members.
    """
    turns = -(-runs // max_members)
    count = -(-runs // turns)
    used = min(devices, count)
    return -(-count // used) * used


def group_by_program(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group the jobs that can be members of one program; groups are in the order of their first job."""
    first: dict[tuple[Any, ...], int] = {}
    for job in jobs:
        first.setdefault(job.config.shape, job.number)
    ordered = sorted(jobs, key=lambda job: (first[job.config.shape], job.number))
    return [list(group) for _, group in groupby(ordered, key=lambda job: job.config.shape)]
