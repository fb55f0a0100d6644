"""Members of a sweep in one program: each a run with a folder and, if wanted, a W&B run of its own."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from td3_brax import folder
from td3_brax.config import Config, show
from td3_brax.folder import Outcome
from td3_brax.record import Record
from td3_brax.sweep.file import Sweep
from td3_brax.tracking import Report, duration
from td3_brax.train import DIVERGED, PREEMPTED, Signals, versions
from td3_brax.wandb_run import Membership, WandbRun

if TYPE_CHECKING:
    from td3_brax.program import Program


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


def make_job(
    sweep: Sweep, number: int, options: Mapping[str, Any], where: str, mode: str, **rest: Any
) -> Job:
    """The run that ``options`` stand for; raises :class:`SweepError` where they can't be used."""
    config = dataclasses.replace(sweep.config(options, where), wandb=mode)
    varied = " ".join(f"--{name}={show(options[name])}" for name in sweep.varied if name in options)
    return Job(number, config, varied, **rest)


@dataclass
class Result:
    """How a member ended."""

    job: Job
    outcome: Outcome
    end: str
    code: int
    last: Report = field(default_factory=dict)


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


class Member:
    """A job in its place."""

    def __init__(self, job: Job, out: Path, line: Callable[[str], None], membership: Membership) -> None:
        self.job, self.began = job, time.perf_counter()
        self.config = dataclasses.replace(job.config, out=str(out))
        self.stop = threading.Event()
        wandb = None
        folder.make(self.config)
        if job.config.wandb != "disabled":
            wandb = WandbRun(self.config, out, job.run_id, self.stop.set, line, membership)
        self.record = Record(self.config, out, line, wandb)
        self.trained_s = self.evaluated_s = 0.0
        self.last: Report = {}


class Pack:
    """The places of one program, and who is in them.

    Args:
        places: members at once; a multiple of ``devices``.
        out: the sweep's folder.
        make_membership: what W&B is told of a job's run.
        wait_s: how often to ask a source that has nothing yet, while no member trains.
    """

    def __init__(
        self,
        source: Source,
        places: int,
        devices: int,
        out: Path,
        line: Callable[[str], None],
        make_membership: Callable[[Job], Membership],
        signals: Signals,
        wait_s: float = 1.0,
    ) -> None:
        self.source, self.devices, self.out, self.line = source, devices, out, line
        self.make_membership, self.signals, self.wait_s = make_membership, signals, wait_s
        self.members: list[Member | None] = [None] * places
        self.results: list[Result] = []
        self.program: Program | None = None
        self._closing: list[Any] = []

    def train(self) -> list[Result]:
        """Until the source has no more; returns how each ended."""
        with ThreadPoolExecutor(4) as pool:
            self._pool = pool
            while self._fill():
                if any(self.members):
                    self._chunk()
                else:
                    time.sleep(self.wait_s)
            for closing in self._closing:
                closing.result()
        return self.results

    def _fill(self) -> bool:
        """Give free places to what the source has; returns whether there is, or may be, more to do."""
        for place, member in enumerate(self.members):
            if member is None and not self.signals.code and (job := self.source.take(place)):
                new = Member(job, self.out / f"{job.number:03d}", self.line, self.make_membership(job))
                self.members[place] = new
                if self.program:
                    self.program.put(place, new.config)
        present = [member for member in self.members if member]
        if present and not self.program:
            from td3_brax import shards
            from td3_brax.program import Program

            # A place that is still free has somebody's twin in it, whom nobody asks.
            configs = [(member or present[0]).config for member in self.members]
            self.program = Program(configs, self.line, shards.spread(self.devices))
            self.program.begin()
            self.signals.training = True
        return bool(present) or not (self.source.exhausted or self.signals.code)

    def _chunk(self) -> None:
        """A chunk of all members, and what is due with it."""
        program = self.program
        assert program is not None
        began = time.perf_counter()
        reports = program.run_chunk()
        trained_s = time.perf_counter() - began
        here = [(place, member) for place, member in enumerate(self.members) if member]
        ends: dict[int, tuple[str, int]] = {}
        for place, member in here:
            member.trained_s += trained_s
            member.record.advance(reports[place])
            if (end := self._end(member, reports[place])) is not None:
                ends[place] = end
        score = [(p, m) for p, m in here if m.record.due or (p in ends and ends[p][1] != DIVERGED)]
        if score:
            scored = program.evaluate([m.record.outcome.env_steps if m else 0 for m in self.members])
            for place, member in score:
                member.evaluated_s += scored[place]["time/eval_s"]
                make = functools.partial(program.policy, place)
                reports[place] |= member.record.evaluated(scored[place], make)
        for place, member in here:
            self._report(member, reports[place], program.compile_s)
            if place in ends:
                self._leave(place, member, *ends[place])
        if score:
            self._say([reports[place] for place, _ in score])

    def _end(self, member: Member, report: Report) -> tuple[str, int] | None:
        """How and with which code a member ends after this chunk; None if it goes on."""
        if report["update/skipped"] > 0 and member.config.on_nonfinite == "stop":
            return "diverged", DIVERGED
        if member.record.complete:
            return "done", 0
        if self.signals.code:
            return "interrupted", self.signals.code
        if member.stop.is_set() or member.job.stopped():
            return "stopped by W&B", 0
        return None

    def _report(self, member: Member, report: Report, compile_s: float) -> None:
        report |= {"wall_s": time.perf_counter() - member.began, "time/compile_s": compile_s}
        member.record.outcome.wall_s = report["wall_s"]
        member.record.log.write(report)
        member.record.track(report)
        member.last = report

    def _leave(self, place: int, member: Member, end: str, code: int) -> None:
        """Close what is a member's own; the others go on meanwhile."""
        record, program = member.record, self.program
        assert program is not None
        record.log.close()
        record.draw()
        times = {"compile": program.compile_s, "train": member.trained_s, "eval": member.evaluated_s}
        summary: Report = {f"time/{part}_s": seconds for part, seconds in times.items()}
        summary |= {"compile_cache_hit": program.cached, "device": versions()["device"]}
        summary |= {"members": len(self.members)}
        self._closing.append(self._pool.submit(record.close, code, code == PREEMPTED, summary))
        self.results.append(Result(member.job, record.outcome, end, code, member.last))
        self.members[place] = None
        self.source.ended(place)
        best = f"best {record.outcome.best:,.0f}" if math.isfinite(record.outcome.best) else "not scored"
        after = f"after {record.outcome.env_steps:,} steps"
        self.line(f"{member.job.number:03d} {end}: {best} {after}  {member.job.varied}")

    def _say(self, reports: Sequence[Report]) -> None:
        """One line for an evaluation of several members."""
        returns = sorted(report["eval/return_mean"] for report in reports)
        steps = max(report["env_steps"] for report in reports)
        rate = sum(report["time/env_steps_per_s"] for report in reports)
        self.line(
            f"{steps:>11,} steps  {duration(max(r['wall_s'] for r in reports)):>12}  greedy returns of "
            f"{len(reports)} members: {returns[0]:,.0f} to {returns[-1]:,.0f}, median "
            f"{returns[len(returns) // 2]:,.0f}  ({rate:,.0f} steps/s in all)"
        )
