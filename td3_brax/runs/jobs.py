"""The runs that a sweep asks for, and the groups that fit into one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from td3_brax.config import Config


@dataclass
class Job:
    """One run that the sweep asks for."""

    number: int
    config: Config
    varied: str
    """Its own options, as one would type them."""
    run_id: str | None = None
    """W&B's id for it, where W&B has chosen."""
    stopped: Callable[[], bool] = lambda: False
    """Whether W&B wants it to stop."""


class Source:
    """Where jobs come from, for each place of a pack."""

    def take(self, place: int) -> Job | None:
        """The next for this place, if there is one now."""
        raise NotImplementedError

    def ended(self, place: int) -> None:
        """The job of this place has."""
        raise NotImplementedError

    @property
    def exhausted(self) -> bool:
        """Whether no place will get another."""
        raise NotImplementedError


class Queue(Source):
    """A known list of jobs."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._left = list(jobs)

    def take(self, place: int) -> Job | None:
        """The next one."""
        return self._left.pop(0) if self._left else None

    def ended(self, place: int) -> None:
        """Nothing follows from it."""

    @property
    def exhausted(self) -> bool:
        """Whether all are taken."""
        return not self._left


def places(runs: int, most: int, devices: int) -> int:
    """Members at once: at most ``most`` in as few and even turns as may be, rounded up to equal shares."""
    turns = -(-runs // most)
    count = -(-runs // turns)
    used = min(devices, count)
    return -(-count // used) * used


def group(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs whose configs can be members of one program, together; groups in order of their first."""
    first: dict[tuple[Any, ...], int] = {}
    for one in jobs:
        first.setdefault(one.config.shape, one.number)
    ordered = sorted(jobs, key=lambda one: (first[one.config.shape], one.number))
    return [list(own) for _, own in groupby(ordered, key=lambda one: one.config.shape)]
