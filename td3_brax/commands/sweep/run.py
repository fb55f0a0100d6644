"""``td3-brax sweep FILE``: check it, say what it means, register it, train its members together, sum up."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from td3_brax.cli import Parser, fail, guarded, whole
from td3_brax.commands.sweep import agents
from td3_brax.commands.sweep.file import Sweep, SweepError, load
from td3_brax.commands.sweep.jobs import make_job
from td3_brax.commands.sweep.online import Home, Suggestions, register
from td3_brax.config import Config
from td3_brax.option import ConfigError, show
from td3_brax.runs import folder, journal
from td3_brax.runs.device import platform, prepare_jax
from td3_brax.runs.formatting import command, counted, number
from td3_brax.runs.jobs import Job, count_places, group_by_program
from td3_brax.runs.member import Shared
from td3_brax.runs.pack import Pack, train_jobs
from td3_brax.runs.signals import PREEMPTED, TERMINATED, Signals
from td3_brax.runs.tracking import one_line
from td3_brax.runs.wandb_run import Membership, check_environment, mode_from_environment, project

MEMBERS = 16
"""At once, unless --members says otherwise."""


def parser() -> Parser:
    """The command's options."""
    made = Parser(prog="td3-brax sweep", description=__doc__)
    made.add_argument("file", nargs="?", help="a sweep's file, as for `wandb sweep`")
    made.add_argument("--resume", metavar="DIR", help="go on with the sweep in this folder")
    made.add_argument("--members", metavar="INT", help=f"members that train at once (default: {MEMBERS})")
    made.add_argument("--devices", metavar="INT", help="devices that share the members (default: all)")
    made.add_argument("--wandb", metavar="TEXT", help="online, offline or disabled (default: online)")
    made.add_argument("--out", metavar="TEXT", help="folder of the sweep (default: runs/<name>-<time>)")
    made.add_argument("--seed", metavar="INT", help="what a random sweep draws follows from it (default: 0)")
    return made


def job(argv: Sequence[str]) -> int:
    """Run the sweep; returns the exit code: that of an interruption, else 1 where a member diverged, or 0."""
    given = parser().parse(argv)
    if given.resume is None:
        return _begin(given)
    if any(value is not None for name, value in vars(given).items() if name != "resume"):
        raise ConfigError("resume", given.resume, "takes no other option: it goes on as it was started")
    out = Path(given.resume)
    plan = journal.read_plan(out)
    check_environment(plan.wandb, _line, packed=True)
    sweep = load(out / journal.SWEEP_FILE, plan.name)
    if sweep.suggested:
        raise ConfigError("resume", str(out), "follows W&B's suggestions, which can't be asked for again")
    with folder.lock(out), Signals() as signals:
        there = _devices(sweep, plan.devices)
        if platform() != plan.platform:
            raise ConfigError("resume", str(out), f"was started on {plan.platform}, this is {platform()}")
        return _train(sweep, plan, out, min(plan.devices, there), signals)


def _begin(given: argparse.Namespace) -> int:
    """A new sweep."""
    if given.file is None:
        raise SweepError("needs a sweep's FILE, or --resume with the folder of one; see --help")
    members, seed = _number("members", given.members, MEMBERS, 1), _number("seed", given.seed, 0, 0)
    devices = _number("devices", given.devices, 0, 1)
    mode = given.wandb or mode_from_environment() or "online"
    if mode not in ("online", "offline", "disabled"):
        raise ConfigError("wandb", mode, "must be one of online, offline, disabled")
    sweep = load(Path(given.file))
    if sweep.suggested and mode != "online":
        raise sweep.fail("method", f"W&B has to say what runs: it needs --wandb=online, not {mode}")
    check_environment(mode, _line, packed=True)
    with Signals() as signals:
        there = _devices(sweep, devices)
        if devices > there:
            raise ConfigError("devices", devices, f"there {'is' if there == 1 else 'are'} {there}")
        if sweep.suggested:
            _check_suggestions(sweep, platform())
        _announce(
            sweep,
            [] if sweep.suggested else group_by_program(planned(sweep, seed, platform(), mode)),
            members,
        )
        plain = "-".join("".join(c if c.isalnum() else " " for c in sweep.name).split())
        with folder.create_and_lock(given.out or "", plain) as out:
            signals.new_folder = out
            journal.check_new(out)
            home = register(sweep, _line) if mode == "online" else Home("", None, project())
            if sweep.suggested and (why := agents.missing()):
                print(f"{why}; the public way, a process for each run: wandb agent {home.path}")
                return 1
            plan = journal.Plan(
                sweep.name,
                seed,
                members,
                devices or there,
                platform(),
                mode,
                home.sweep_id,
                home.entity,
                home.project,
            )
            journal.write_plan(out, Path(given.file).read_bytes(), plan)
            return _train(sweep, plan, out, plan.devices, signals)


def _devices(sweep: Sweep, devices: int) -> int:
    """Start JAX; how many devices there are."""
    fixed = {name: p["value"] for name, p in sweep.parameters.items() if "value" in p}
    prepare_jax(bool(fixed.get("deterministic", False)), devices)
    import jax

    return len(jax.devices())


def _train(sweep: Sweep, plan: journal.Plan, out: Path, devices: int, signals: Signals) -> int:
    """What is left of the sweep in ``out``, and its table; returns the exit code."""
    home = Home(plan.sweep_id, plan.entity, plan.project)
    shared = Shared(
        out,
        _line,
        lambda one: _membership(sweep, home, one),
        signals,
        journal.Journal(out),
        sweep.metric,
    )
    ends = shared.journal.ends
    try:
        if sweep.suggested:
            count = count_places(sweep.run_cap or plan.members, plan.members, devices)
            source = Suggestions(sweep, home, count, plan.platform, plan.wandb)
            try:
                Pack(shared, source, count, min(devices, count), saves=False).train()
            finally:
                source.agents.close()
            jobs = source.jobs
        else:
            jobs = planned(sweep, plan.seed, plan.platform, plan.wandb)
            train_jobs(shared, jobs, plan.members, devices)
    except ConfigError as error:
        if plan.members == 1:
            raise
        raise SweepError(f"{error}; or train fewer than --members={plan.members} at once") from None
    print(summary(sweep, jobs, ends), flush=True)
    if sweep.suggested and (ended := source.agents.error):
        fail(f"W&B suggests no more: {one_line(ended)}")
        return signals.code or 1
    if signals.code and not sweep.suggested:
        _line(f"go on with: {command('sweep', '--resume', out)}")
    if signals.code == PREEMPTED and sweep.suggested:
        return TERMINATED
    return signals.code or int(any(end.code for end in ends.values()))


def _line(text: str) -> None:
    print(text, flush=True)


def _number(name: str, text: str | None, default: int, least: int) -> int:
    """An option's whole number.

    Raises:
        ConfigError: it is none, or too small.
    """
    if text is None or (name == "devices" and text == "all"):
        return default
    try:
        number = whole(text)
    except Exception:
        raise ConfigError(name, text, "must be a whole number") from None
    if number < least:
        raise ConfigError(name, text, f"must be at least {least}")
    return number


def planned(sweep: Sweep, seed: int, where: str, mode: str) -> list[Job]:
    """All runs of a grid or random sweep."""
    return [make_job(sweep, i, options, where, mode) for i, options in enumerate(sweep.runs(seed), 1)]


def _check_suggestions(sweep: Sweep, where: str) -> None:
    """Raise :class:`SweepError` where W&B might suggest what can't be a member of one program."""
    shapes: list[tuple[dict[str, Any], Config]] = []
    for options in sweep.corners():
        shapes.append((options, sweep.config(options, where)))
    first, config = shapes[0]
    for options, other in shapes[1:]:
        if other.shape != config.shape:
            name = next(name for name in options if options[name] != first[name])
            raise sweep.fail(
                f"parameters.{name}",
                "shapes the program, and W&B's suggestions must fit one: give it a single value, or run "
                "the sweep with `wandb sweep` and `wandb agent`",
            )


def _announce(sweep: Sweep, groups: Sequence[Sequence[Job]], members: int) -> None:
    """What will run, and how members group."""
    if sweep.suggested:
        most = f"at most {sweep.run_cap} runs" if sweep.run_cap else "as many runs as W&B suggests"
        _line(f"{sweep.name}: {most}, {members} at a time in one program")
        return
    count = sum(map(len, groups))
    _line(f"{sweep.name}: {counted(count, 'run')} in {counted(len(groups), 'program')}")
    for jobs in groups:
        shaping = [name for name in sweep.varied if _same(jobs, name) and len(groups) > 1]
        own = [name for name in sweep.varied if name not in shaping]
        shared = " ".join(f"--{name}={show(getattr(jobs[0].config, name))}" for name in shaping)
        _line(
            f"  {counted(len(jobs), 'member')}, {min(members, len(jobs))} at a time"
            f"{', ' * bool(shared)}{shared}{'; they differ in ' * bool(own)}{', '.join(own)}"
        )


def _same(jobs: Sequence[Job], name: str) -> bool:
    return len({getattr(one.config, name) for one in jobs}) == 1


def _membership(sweep: Sweep, home: Home, one: Job) -> Membership:
    return Membership(
        f"{sweep.name} {one.number:03d}", sweep.name, home.project, home.entity, home.sweep_id or None
    )


def summary(sweep: Sweep, jobs: Sequence[Job], ends: Mapping[int, journal.End]) -> str:
    """A table of the members that ended, the best first, and the best one's options as a command line."""

    def value(one: Job) -> float:
        end = ends[one.number]
        found = end.outcome.best if sweep.metric == "eval/return_best" else end.last
        worst = -math.inf if sweep.maximize else math.inf
        return worst if found is None or not math.isfinite(found) else found

    ordered = sorted((one for one in jobs if one.number in ends), key=value, reverse=sweep.maximize)
    if not ordered:
        return "no member ended"
    rows = [["run", *sweep.varied, sweep.metric, "env_steps", "end"]]
    for one in ordered:
        own = [show(getattr(one.config, name)) for name in sweep.varied]
        score = number(value(one)) if math.isfinite(value(one)) else "-"
        end = ends[one.number]
        rows.append([f"{one.number:03d}", *own, score, f"{end.outcome.env_steps:,}", end.end])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    table = "\n".join("  ".join(cells).rstrip() for cells in padded)
    same = [f"--{name}={show(p['value'])}" for name, p in sweep.parameters.items() if "value" in p]
    best = [f"--{name}={show(getattr(ordered[0].config, name))}" for name in sweep.varied]
    return f"{table}\nthe best again: {command('train', *same, *best)}"


def guarded_job(argv: Sequence[str]) -> int:
    """:func:`job`; a sweep that can't be run becomes one line."""
    try:
        return job(argv)
    except SweepError as error:
        return fail(error)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(guarded_job, argv)


if __name__ == "__main__":
    sys.exit(main())
