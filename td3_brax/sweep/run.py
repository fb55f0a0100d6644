"""``td3-brax sweep FILE``: check it, say what it means, register it, train its members together, sum up."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from td3_brax.cli import Parser, fail, guarded, whole
from td3_brax.config import Config, ConfigError, show
from td3_brax.device import platform, prepare_jax
from td3_brax.sweep import agents
from td3_brax.sweep.file import Sweep, SweepError, load
from td3_brax.sweep.online import Home, Suggestions, register
from td3_brax.sweep.pack import Job, Pack, Queue, Result, Source, make_job
from td3_brax.train import PREEMPTED, TERMINATED, Signals
from td3_brax.wandb_run import Membership, project

MEMBERS = 16
"""At once, unless --members says otherwise."""


def parser() -> Parser:
    """The command's options."""
    made = Parser(prog="td3-brax sweep", description=__doc__, allow_abbrev=False)
    made.add_argument("file", help="a sweep's file, as for `wandb sweep`")
    made.add_argument("--members", metavar="INT", help=f"members that train at once (default: {MEMBERS})")
    made.add_argument("--devices", metavar="INT", help="devices that share the members (default: all)")
    made.add_argument("--wandb", metavar="TEXT", help="online, offline or disabled (default: online)")
    made.add_argument("--out", metavar="TEXT", help="folder of the sweep (default: runs/<name>-<time>)")
    made.add_argument("--seed", metavar="INT", help="what a random sweep draws follows from it (default: 0)")
    return made


def job(argv: Sequence[str]) -> int:
    """Run the sweep; returns the exit code: that of an interruption, else 1 where a member diverged, or 0."""
    given = parser().parse(argv)
    members, seed = _number("members", given.members, MEMBERS, 1), _number("seed", given.seed, 0, 0)
    devices = _number("devices", given.devices, 0, 1)
    mode = given.wandb or "online"
    if mode not in ("online", "offline", "disabled"):
        raise ConfigError("wandb", mode, "must be one of online, offline, disabled")
    sweep = load(Path(given.file))
    if sweep.suggested and mode != "online":
        raise sweep.fail("method", f"W&B has to say what runs: it needs --wandb=online, not {mode}")
    fixed = {name: p["value"] for name, p in sweep.parameters.items() if "value" in p}
    prepare_jax(bool(fixed.get("deterministic", False)), devices)
    with Signals() as signals:
        import jax

        there = len(jax.devices())
        if devices > there:
            raise ConfigError("devices", devices, f"there {'is' if there == 1 else 'are'} {there}")
        groups = [[]] if sweep.suggested else group(planned(sweep, seed, platform(), mode))
        if sweep.suggested:
            _check_suggestions(sweep, platform())
        _announce(sweep, groups, members)
        home = register(sweep, _line) if mode == "online" else Home("", None, project())
        if sweep.suggested and (why := agents.missing()):
            print(f"{why}; the public way, a process for each run: wandb agent {home.path}")
            return 1
        out = _folder(given.out, sweep)
        results: list[Result] = []
        for jobs in groups:
            count = places(len(jobs) or sweep.run_cap or members, members, devices or there)
            source: Source = Queue(jobs) if jobs else Suggestions(sweep, home, count, platform(), mode)
            pack = Pack(
                source,
                count,
                min(devices or there, count),
                out,
                _line,
                lambda j: _membership(sweep, home, j),
                signals,
            )
            try:
                results += pack.train()
            except ConfigError as error:
                if count == 1:
                    raise
                raise SweepError(f"{error}; or train fewer than --members={count} at once") from None
            finally:
                if isinstance(source, Suggestions):
                    source.agents.close()
            if signals.code:
                break
    print(summary(sweep, results), flush=True)
    code = TERMINATED if signals.code == PREEMPTED else signals.code
    return code or int(any(result.code for result in results))


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


def places(runs: int, most: int, devices: int) -> int:
    """Members at once: at most ``most`` in as few and even turns as may be, rounded up to equal shares."""
    turns = -(-runs // most)
    count = -(-runs // turns)
    used = min(devices, count)
    return -(-count // used) * used


def planned(sweep: Sweep, seed: int, where: str, mode: str) -> list[Job]:
    """All runs of a grid or random sweep."""
    return [make_job(sweep, i, options, where, mode) for i, options in enumerate(sweep.runs(seed), 1)]


def group(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs whose configs can be members of one program, together; groups in order of their first."""
    first: dict[tuple[Any, ...], int] = {}
    for one in jobs:
        first.setdefault(one.config.shape, one.number)
    ordered = sorted(jobs, key=lambda one: (first[one.config.shape], one.number))
    return [list(own) for _, own in groupby(ordered, key=lambda one: one.config.shape)]


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
    _line(f"{sweep.name}: {count} run{'s' * (count > 1)} in {len(groups)} program{'s' * (len(groups) > 1)}")
    for jobs in groups:
        shaping = [name for name in sweep.varied if _same(jobs, name) and len(groups) > 1]
        own = [name for name in sweep.varied if name not in shaping]
        shared = " ".join(f"--{name}={show(getattr(jobs[0].config, name))}" for name in shaping)
        _line(
            f"  {len(jobs)} member{'s' * (len(jobs) > 1)}, {min(members, len(jobs))} at a time"
            f"{', ' * bool(shared)}{shared}{'; they differ in ' * bool(own)}{', '.join(own)}"
        )


def _same(jobs: Sequence[Job], name: str) -> bool:
    return len({getattr(one.config, name) for one in jobs}) == 1


def _membership(sweep: Sweep, home: Home, one: Job) -> Membership:
    return Membership(
        f"{sweep.name} {one.number:03d}", sweep.name, home.project, home.entity, home.sweep_id or None
    )


def _folder(given: str | None, sweep: Sweep) -> Path:
    """The sweep's folder, made.

    Raises:
        ConfigError: it is not empty, or can't be made.
    """
    plain = "-".join("".join(c if c.isalnum() else " " for c in sweep.name).split())
    out = Path(given or f"runs/{plain}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError("out", str(out), "is not empty; choose another folder")
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None
    return out


def summary(sweep: Sweep, results: Sequence[Result]) -> str:
    """A table of the results, the best first, and the best member's options as a command line."""

    def value(result: Result) -> float:
        key = sweep.metric.removeprefix("eval/")
        found = result.outcome.best if key == "return_best" else result.last.get(sweep.metric)
        worst = float("-inf") if sweep.maximize else float("inf")
        return worst if found is None or found != found else float(found)

    ordered = sorted(results, key=value, reverse=sweep.maximize)
    if not ordered:
        return "no member ended"
    rows = [["run", *sweep.varied, sweep.metric, "env_steps", "end"]]
    for result in ordered:
        own = [show(getattr(result.job.config, name)) for name in sweep.varied]
        score = f"{value(result):,.1f}" if abs(value(result)) != float("inf") else "-"
        rows.append([f"{result.job.number:03d}", *own, score, f"{result.outcome.env_steps:,}", result.end])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    best = ordered[0].job
    same = " ".join(f"--{n}={show(p['value'])}" for n, p in sweep.parameters.items() if "value" in p)
    return f"{table}\nthe best again: td3-brax train {same} {best.varied}".rstrip()


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
