"""``td3-brax sweep FILE``: train the members of a sweep together in one program."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from td3_brax.cli import Parser, fail, guarded, whole_number
from td3_brax.commands.sweep import agents
from td3_brax.commands.sweep.file import Sweep, SweepError, load
from td3_brax.commands.sweep.jobs import make_job
from td3_brax.commands.sweep.online import Suggestions, WandbSweep, register
from td3_brax.config import Config
from td3_brax.option import ConfigError, show
from td3_brax.runs import folder, journal, origin
from td3_brax.runs.device import platform, prepare_jax
from td3_brax.runs.formatting import command, counted, number
from td3_brax.runs.jobs import Job, count_places, group_by_program
from td3_brax.runs.member import Shared
from td3_brax.runs.pack import Pack, train_jobs
from td3_brax.runs.signals import PREEMPTED, TERMINATED, Signals
from td3_brax.runs.tracking import one_line
from td3_brax.runs.wandb_run import Membership, check_environment, mode_from_environment, project

MEMBERS = 16
"""Members that train at once, unless --members says otherwise."""


def parser() -> Parser:
    """Make the parser of the command's options."""
    options = Parser(prog="td3-brax sweep", description=__doc__)
    options.add_argument("file", nargs="?", help="file of the sweep, in the format of `wandb sweep`")
    options.add_argument("--resume", metavar="DIR", help="continue the sweep in this folder")
    options.add_argument("--members", metavar="INT", help=f"members that train at once (default: {MEMBERS})")
    options.add_argument("--devices", metavar="INT", help="devices that share the members (default: all)")
    options.add_argument("--wandb", metavar="TEXT", help="online, offline or disabled (default: online)")
    options.add_argument("--out", metavar="TEXT", help="folder of the sweep (default: runs/<name>-<time>)")
    options.add_argument("--seed", metavar="INT", help="seed of a random sweep's draws (default: 0)")
    return options


def job(argv: Sequence[str]) -> int:
    """Run the sweep; return the exit code: that of an interruption, else 1 if a member diverged, or 0."""
    given = parser().parse(argv)
    if given.resume is None:
        return _begin(given)
    if any(value is not None for name, value in vars(given).items() if name != "resume"):
        raise ConfigError(
            "resume",
            given.resume,
            "takes no other options: the sweep continues with those it was started with",
        )
    out = Path(given.resume)
    plan = journal.read_plan(out)
    check_environment(plan.wandb, _line, packed=True)
    sweep = load(out / journal.SWEEP_FILE, plan.name)
    if sweep.suggested:
        raise ConfigError(
            "resume",
            str(out),
            "follows W&B's suggestions (bayes or early_terminate), so it can't be resumed; start a new sweep",
        )
    with folder.lock(out), Signals() as signals:
        available = _start_jax(sweep, plan.devices)
        if platform() != plan.platform:
            raise ConfigError("resume", str(out), f"was started on {plan.platform}, but this is {platform()}")
        return _train(sweep, plan, out, min(plan.devices, available), signals)


def _begin(given: argparse.Namespace) -> int:
    """Start a new sweep; return the exit code."""
    if given.file is None:
        raise SweepError("give the FILE of a sweep, or --resume with the folder of one; see --help")
    members, seed = _number("members", given.members, MEMBERS, 1), _number("seed", given.seed, 0, 0)
    devices = _number("devices", given.devices, 0, 1)
    mode = given.wandb or mode_from_environment() or "online"
    if mode not in ("online", "offline", "disabled"):
        raise ConfigError("wandb", mode, "must be one of online, offline, disabled")
    sweep = load(Path(given.file))
    if sweep.suggested and mode != "online":
        raise sweep.error(
            "method", f"W&B decides which runs start or stop, so it needs --wandb=online, not {mode}"
        )
    check_environment(mode, _line, packed=True)
    with Signals() as signals:
        available = _start_jax(sweep, devices)
        if devices > available:
            raise ConfigError("devices", devices, f"only {counted(available, 'device')} available")
        jobs = [] if sweep.suggested else planned(sweep, seed, platform(), mode)
        if sweep.suggested:
            _check_suggestions(sweep, platform())
        origin.check_all(one.config for one in jobs)
        _announce(sweep, group_by_program(jobs), members)
        folder_name = "-".join("".join(c if c.isalnum() else " " for c in sweep.name).split())
        with folder.create_and_lock(given.out or "", folder_name) as out:
            signals.new_folder = out
            journal.check_new(out)
            registered = register(sweep, _line) if mode == "online" else WandbSweep("", None, project())
            if sweep.suggested and (why := agents.missing()):
                print(f"{why}; run the sweep with one process per run instead: wandb agent {registered.path}")
                return 1
            plan = journal.Plan(
                sweep.name,
                seed,
                members,
                devices or available,
                platform(),
                mode,
                registered.sweep_id,
                registered.entity,
                registered.project,
            )
            journal.write_plan(out, Path(given.file).read_bytes(), plan)
            return _train(sweep, plan, out, plan.devices, signals)


def _start_jax(sweep: Sweep, devices: int) -> int:
    """Start JAX; return the number of devices available."""
    fixed = {name: p["value"] for name, p in sweep.parameters.items() if "value" in p}
    prepare_jax(bool(fixed.get("deterministic", False)), devices)
    import jax

    return len(jax.devices())


def _train(sweep: Sweep, plan: journal.Plan, out: Path, devices: int, signals: Signals) -> int:
    """Run what is left of the sweep in ``out`` and print its table; return the exit code."""
    registered = WandbSweep(plan.sweep_id, plan.entity, plan.project)
    shared = Shared(
        out,
        _line,
        lambda one: _membership(sweep, registered, one),
        signals,
        journal.Journal(out),
        sweep.metric,
    )
    ends = shared.journal.ends
    try:
        if sweep.suggested:
            count = count_places(sweep.run_cap or plan.members, plan.members, devices)
            source = Suggestions(sweep, registered, count, plan.platform, plan.wandb)
            try:
                Pack(shared, source, count, min(devices, count), saves=False).train()
            finally:
                source.agents.close()
            jobs = source.jobs
        else:
            jobs = planned(sweep, plan.seed, plan.platform, plan.wandb)
            train_jobs(shared, jobs, plan.members, devices)
    except ConfigError as error:
        if plan.members == 1 or isinstance(error, origin.OriginError):
            raise
        raise SweepError(f"{error}; or lower --members={plan.members} to train fewer at once") from None
    _line(f"saved in {out}:")
    print(summary(sweep, jobs, ends), flush=True)
    if sweep.suggested and (ended := source.agents.error):
        fail(f"W&B suggests no more runs: {one_line(ended)}")
        return signals.code or 1
    if signals.code and not sweep.suggested:
        _line(f"continue with: {command('sweep', '--resume', out)}")
    if signals.code == PREEMPTED and sweep.suggested:
        return TERMINATED
    return signals.code or int(any(end.code for end in ends.values()))


def _line(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _number(name: str, text: str | None, default: int, least: int) -> int:
    """Parse the whole number of an option.

    Raises:
        ConfigError: the text is not a whole number, or the number is less than ``least``.
    """
    if text is None or (name == "devices" and text == "all"):
        return default
    try:
        number = whole_number(text)
    except Exception:
        raise ConfigError(name, text, "must be a whole number") from None
    if number < least:
        raise ConfigError(name, text, f"must be at least {least}")
    return number


def planned(sweep: Sweep, seed: int, platform: str, mode: str) -> list[Job]:
    """List all jobs of a grid or random sweep."""
    return [make_job(sweep, i, options, platform, mode) for i, options in enumerate(sweep.runs(seed), 1)]


def _check_suggestions(sweep: Sweep, platform: str) -> None:
    """Raise :class:`SweepError` if W&B might suggest runs that can't be members of the same program."""
    shapes: list[tuple[dict[str, Any], Config]] = []
    for options in sweep.corners():
        shapes.append((options, sweep.config(options, platform)))
    origin.check_all(config for _, config in shapes)
    first, config = shapes[0]
    for options, other in shapes[1:]:
        if other.shape != config.shape:
            name = next(name for name in options if options[name] != first[name])
            raise sweep.error(
                f"parameters.{name}",
                "sets the program's shape, which must be the same for all of W&B's suggestions; give it a "
                "single value, or run the sweep with `wandb sweep` and `wandb agent`",
            )


def _announce(sweep: Sweep, groups: Sequence[Sequence[Job]], members: int) -> None:
    """Print what will run, and how members are grouped into programs."""
    if sweep.suggested:
        most = f"at most {sweep.run_cap} runs" if sweep.run_cap else "as many runs as W&B suggests"
        _line(f"{sweep.name}: {most}, {members} at a time in one program")
        return
    count = sum(map(len, groups))
    _line(f"{sweep.name}: {counted(count, 'run')} in {counted(len(groups), 'program')}")
    for jobs in groups:
        shaping = [name for name in sweep.varied if _same(jobs, name) and len(groups) > 1]
        differing = [name for name in sweep.varied if name not in shaping]
        shared = " ".join(f"--{name}={show(getattr(jobs[0].config, name))}" for name in shaping)
        _line(
            f"  {counted(len(jobs), 'member')}, {min(members, len(jobs))} at a time"
            f"{', ' * bool(shared)}{shared}{'; they differ in ' * bool(differing)}{', '.join(differing)}"
        )


def _same(jobs: Sequence[Job], name: str) -> bool:
    """Return whether all jobs have the same value of the option ``name``."""
    return len({getattr(one.config, name) for one in jobs}) == 1


def _membership(sweep: Sweep, registered: WandbSweep, one: Job) -> Membership:
    """Return the name, group and sweep of a job's run on W&B."""
    return Membership(
        f"{sweep.name} {one.number:03d}",
        sweep.name,
        registered.project,
        registered.entity,
        registered.sweep_id or None,
    )


def summary(sweep: Sweep, jobs: Sequence[Job], ends: Mapping[int, journal.End]) -> str:
    """Format a table of the members that ended, best first, and the command that repeats the best one."""

    def value(one: Job) -> float:
        end = ends[one.number]
        found = end.outcome.best if sweep.metric == "eval/return_best" else end.last
        worst = -math.inf if sweep.maximize else math.inf
        return worst if found is None or not math.isfinite(found) else found

    ordered = sorted((one for one in jobs if one.number in ends), key=value, reverse=sweep.maximize)
    if not ordered:
        return "no member has ended"
    rows = [["run", *sweep.varied, sweep.metric, "env_steps", "end"]]
    for one in ordered:
        values = [show(getattr(one.config, name)) for name in sweep.varied]
        score = number(value(one)) if math.isfinite(value(one)) else "-"
        end = ends[one.number]
        rows.append([f"{one.number:03d}", *values, score, f"{end.outcome.env_steps:,}", end.end])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    table = "\n".join("  ".join(cells).rstrip() for cells in padded)
    same = [f"--{name}={show(p['value'])}" for name, p in sweep.parameters.items() if "value" in p]
    best = [f"--{name}={show(getattr(ordered[0].config, name))}" for name in sweep.varied]
    return f"{table}\nrun the best again: {command('train', *same, *best)}"


def guarded_job(argv: Sequence[str]) -> int:
    """Run :func:`job`; a sweep that can't be run becomes one line and exit code 2."""
    try:
        return job(argv)
    except SweepError as error:
        return fail(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(guarded_job, argv)


if __name__ == "__main__":
    sys.exit(main())
