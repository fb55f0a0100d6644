"""Train members of a sweep in one program; each has its own folder and, if wanted, its own W&B run."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from td3_brax.runs import journal
from td3_brax.runs.checkpoint import Checkpoints
from td3_brax.runs.formatting import counted, number
from td3_brax.runs.jobs import Job, Queue, Source, count_places, group_by_program
from td3_brax.runs.journal import End, Saved, Seat
from td3_brax.runs.member import Member, Shared
from td3_brax.runs.record import POLICIES
from td3_brax.runs.signals import DIVERGED, FAILED, PREEMPTED
from td3_brax.runs.tracking import Report, duration, one_line
from td3_brax.runs.versions import versions

if TYPE_CHECKING:
    from td3_brax.runs.program import Program


DIVERGENCE = ("diverged", DIVERGED)
WAIT_S = 1.0
"""Seconds between two requests to a source that has no job yet, while no member trains."""


class Pack:
    """The places of one program and the members in them.

    Args:
        places: number of members that train at once; a multiple of ``devices``.
        saves: whether to write checkpoints, with the members' options.
    """

    def __init__(self, shared: Shared, source: Source, places: int, devices: int, saves: bool) -> None:
        self.source, self.devices, self.saves = source, devices, saves
        self.out, self.line, self.make_membership = shared.out, shared.line, shared.make_membership
        self.signals, self.journal, self.metric = shared.signals, shared.journal, shared.metric
        self.members: list[Member | None] = [None] * places
        self.program: Program | None = None
        self.chunks = 0
        self._saved = time.perf_counter()
        self._resumed_from: Path | None = None
        """The checkpoint that the pack resumes from."""
        self._closing: list[Any] = []

    def resume(self, saved: Saved, jobs: Mapping[int, Job]) -> None:
        """Restore the state of a checkpoint, whose members are among ``jobs``."""
        self.chunks, self._resumed_from = saved.chunks, saved.path
        for seat in saved.seats:
            if seat.number not in self.journal.ends:
                self._seat(seat.place, jobs[seat.number], seat)
        self._compile()
        assert self.program is not None
        self.program.restore(saved.arrays)
        self.line(f"resuming {counted(sum(map(bool, self.members)), 'member')} from a checkpoint")

    def train(self) -> None:
        """Train until the source has no more jobs."""
        with ThreadPoolExecutor(4) as pool:
            self._pool = pool
            while self._fill():
                if any(self.members):
                    self._chunk()
                else:
                    time.sleep(WAIT_S)
            for closing in self._closing:
                if error := closing.exception():
                    self.line(f"warning: closing a member's run failed: {one_line(error)}")
            if self.program and self.checkpoints:
                self.checkpoints.wait()
                if not self.signals.code:
                    self.checkpoints.prune(0)

    def _seat(self, place: int, job: Job, seat: Seat | None = None) -> Member:
        """Put a job in a place. A job that has started before keeps its W&B run."""
        out = self.out / f"{job.number:03d}" if seat else journal.make_member_folder(self.out, job.number)
        wandb_id = job.run_id or self.journal.ids.get(job.number)
        member = Member(job, out, self.line, self.make_membership(job), wandb_id, seat)
        if seat is None:
            self.journal.start(job.number, member.record.wandb.id if member.record.wandb else None)
        self.members[place] = member
        return member

    def _compile(self) -> None:
        from td3_brax.algorithm import shards
        from td3_brax.runs.program import Program

        # A free place trains a copy of the first member, whose results are ignored.
        present = [member for member in self.members if member]
        members = [member or present[0] for member in self.members]
        configs, origins = [one.config for one in members], [one.origin for one in members]
        self.program = Program(configs, self.line, shards.spread(self.devices), origins)
        self.checkpoints = Checkpoints(self.out, configs[0].checkpoint_keep, self._resumed_from)
        self.signals.training = True

    def _fill(self) -> bool:
        """Fill free places with jobs from the source; return whether there is, or may be, more to do."""
        for place, member in enumerate(self.members):
            if member is None and not self.signals.code and (job := self.source.take(place)):
                new = self._seat(place, job)
                if self.program:
                    self.program.put(place, new.config, new.origin)
        if any(self.members) and not self.program:
            self._compile()
            assert self.program is not None
            self.program.begin()
        return any(self.members) or not (self.source.exhausted or self.signals.code)

    def _chunk(self) -> None:
        """Train all members for one chunk, then evaluate, log and save what is due."""
        program = self.program
        assert program is not None
        began = time.perf_counter()
        reports = program.run_chunk()
        trained_s = time.perf_counter() - began
        self.chunks += 1
        current = [(place, member) for place, member in enumerate(self.members) if member]
        ends: dict[int, tuple[str, int]] = {}
        for place, member in current:
            member.trained_s += trained_s
            member.record.advance(reports[place])
            if (end := self._end(member, reports[place])) is not None:
                ends[place] = end
        score = [
            (place, member)
            for place, member in current
            if (member.record.evaluation_due or place in ends) and ends.get(place) != DIVERGENCE
        ]
        self._evaluate(score, reports)
        self._score_kept([(place, member) for place, member in score if place in ends], reports)
        for place, member in current:
            report = reports[place] | {
                "wall_s": time.perf_counter() - member.began,
                "time/compile_s": program.compile_s,
            }
            member.record.outcome.wall_s = report["wall_s"]
            member.record.log.write(report)
            member.last = report
            if place in ends:
                member.record.track(report)
                self._close_member(place, member, *ends[place])
        code = self.signals.code
        self._save(due=bool(code))
        left = [(place, member) for place, member in current if place not in ends]
        if code and code != PREEMPTED:
            # An uninterrupted run has no such reports, so they replace the last ones.
            early = [(place, member) for place, member in left if not member.record.evaluation_due]
            self._evaluate(early, reports)
            self._score_kept(left, reports)
            for place, member in left:
                member.last = member.last | reports[place]
                member.record.log.rewrite_last(member.last)
        for place, member in left:
            member.record.track(member.last)
            if code:
                self._close_member(place, member, "interrupted", code)
        if score:
            self._print_evaluation([member.last for _, member in score])

    def _evaluate(self, members: Sequence[tuple[int, Member]], reports: list[Report]) -> None:
        """Evaluate ``members`` and add the results to their ``reports``."""
        if not members:
            return
        program = self.program
        assert program is not None
        scored = program.evaluate([m.record.outcome.env_steps if m else 0 for m in self.members])
        for place, member in members:
            member.evaluated_s += scored[place]["time/eval_s"]
            make = functools.partial(program.policy, place)
            reports[place] = reports[place] | member.record.note_evaluation(scored[place], make)

    def _score_kept(self, members: Sequence[tuple[int, Member]], reports: list[Report]) -> None:
        """Score the members' best policies in fresh episodes and add the results to ``reports``."""
        kept = {place: member.record.kept for place, member in members if member.record.kept}
        if not kept:
            return
        assert self.program is not None
        scored = self.program.score_kept(kept)
        for place, member in members:
            if place in scored:
                reports[place] = reports[place] | member.record.note_kept_score(scored[place])

    def _end(self, member: Member, report: Report) -> tuple[str, int] | None:
        """Return how and with which exit code a member ends after this chunk; None if it continues."""
        if report["update/skipped"] > 0 and member.config.on_nonfinite == "stop":
            return DIVERGENCE
        if member.record.complete:
            return "done", 0
        if member.stop.is_set() or member.job.stopped():
            return "stopped by W&B", 0
        return None

    def _save(self, due: bool) -> None:
        """Start to save a checkpoint of the members that continue, if one is due."""
        staying = [(place, member) for place, member in enumerate(self.members) if member]
        if not (self.saves and staying and staying[0][1].config.checkpoint_every_min):
            return
        every = 60 * staying[0][1].config.checkpoint_every_min
        if not due and time.perf_counter() - self._saved < every:
            return
        assert self.program is not None
        seats = [
            {
                "place": place,
                "number": member.job.number,
                "outcome": dataclasses.asdict(member.record.outcome),
                "tail": member.record.log.tail,
                "trained_s": member.trained_s,
                "evaluated_s": member.evaluated_s,
            }
            for place, member in staying
        ]
        files = [member.record.out / name for _, member in staying for name in POLICIES]
        self.checkpoints.save(self.program.state, {"env_steps": self.chunks, "seats": seats}, files, True)
        self._saved = time.perf_counter()
        if error := self.checkpoints.failure():
            self.line(
                f"warning: a checkpoint could not be written ({one_line(error)}); the previous one is kept"
            )

    def _close_member(self, place: int, member: Member, end: str, code: int) -> None:
        """Close a member's files and W&B run in the background, and free its place."""
        record, program = member.record, self.program
        assert program is not None
        if not code and (problem := record.problem()):
            self.line(f"{member.job.number:03d} failed: {problem}")
            end, code = "failed", FAILED
        record.log.close()
        record.draw()
        times = {"compile": program.compile_s, "train": member.trained_s, "eval": member.evaluated_s}
        summary: Report = {f"time/{part}_s": seconds for part, seconds in times.items()}
        summary |= {"compile_cache_hit": program.cached, "device": versions()["device"]}
        summary |= {"members": len(self.members)}
        self._closing.append(self._pool.submit(record.close, code, code == PREEMPTED, summary))
        ended = End(record.outcome, end, code, member.last.get(self.metric))
        if end == "interrupted":
            self.journal.ends[member.job.number] = ended  # it may be resumed, so this is not written
        else:
            self.journal.end(member.job.number, ended)
        self.members[place] = None
        self.source.ended(place)
        found = math.isfinite(record.outcome.best)
        best = f"best {number(record.outcome.best)}" if found else "not evaluated"
        after = f"after {record.outcome.env_steps:,} steps"
        self.line(f"{member.job.number:03d} {end}: {best} {after}  {member.job.varied}")

    def _print_evaluation(self, reports: Sequence[Report]) -> None:
        """Print one line for an evaluation of several members."""
        returns = [r["eval/return_mean"] for r in reports if r["eval/return_mean"] is not None]
        steps = max(report["env_steps"] for report in reports)
        rate = sum(report["time/env_steps_per_s"] for report in reports)
        result = f"no greedy return of {counted(len(reports), 'member')}"
        if returns:
            values = min(returns), max(returns), statistics.median(returns)
            low, high, median = (number(value, values) for value in values)
            result = f"greedy returns of {counted(len(returns), 'member')}: {low} to {high}, median {median}"
        wall = duration(max(report["wall_s"] for report in reports))
        self.line(f"{steps:>11,} steps  {wall:>12}  {result}  ({rate:,.0f} steps/s in total)")


def train_jobs(shared: Shared, jobs: Sequence[Job], members: int, devices: int) -> None:
    """Train the ``jobs`` that have not ended, at most ``members`` at once, one program after another.

    Members in the newest checkpoint of ``shared.out`` resume from it.

    Raises:
        ConfigError: a program can't be made, for example because it needs too much memory.
    """
    saved = journal.newest_checkpoint(shared.out, shared.line)
    seated = {seat.number for seat in saved.seats} if saved else set()
    if lost := [
        n for n in (one.number for one in jobs) if shared.journal.reconcile(n, shared.metric, n in seated)
    ]:
        names = ", ".join(map("{:03d}".format, lost))
        shared.line(f"members.jsonl lacks entries for {names}; their own folders were checked instead")
    for group in group_by_program(jobs):
        left = {one.number: one for one in group if one.number not in shared.journal.ends}
        if not left or shared.signals.code:
            continue
        resumed = saved if seated & {*left} else None
        count = resumed.places if resumed else count_places(len(left), members, devices)
        used = max(n for n in range(1, min(devices, count) + 1) if count % n == 0)
        source = Queue([one for number, one in left.items() if not (resumed and number in seated)])
        pack = Pack(shared, source, count, used, saves=True)
        if resumed:
            pack.resume(resumed, left)
        pack.train()
