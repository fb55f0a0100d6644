"""``td3-brax reproduce``: the TD3 paper's experiments, seeds together in one program, and their page."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from td3_brax.algorithm.schedule import make_schedule
from td3_brax.cli import fail, guarded
from td3_brax.commands.report import paper
from td3_brax.commands.report.algorithms import ALGORITHMS
from td3_brax.commands.report.groups import group
from td3_brax.commands.report.page import Page
from td3_brax.commands.report.runs import RunsError, find
from td3_brax.commands.reproduce import results
from td3_brax.commands.reproduce.options import NUM_ENVS, Asked, parse
from td3_brax.commands.reproduce.results import line
from td3_brax.option import ConfigError, show
from td3_brax.presets import resolve
from td3_brax.runs import files, folder, wandb_run
from td3_brax.runs.device import platform, prepare_jax
from td3_brax.runs.formatting import command, counted
from td3_brax.runs.jobs import Job
from td3_brax.runs.journal import Journal
from td3_brax.runs.member import Shared
from td3_brax.runs.pack import train_jobs
from td3_brax.runs.signals import Signals
from td3_brax.runs.wandb_run import Membership, project

PLAN = "reproduce.json"
REDUCED = "A reduced version (--quick): fewer tasks, seeds and steps than the paper's."


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all experiments of a folder share."""

    preset: str
    steps: int
    quick: bool
    platform: str
    options: dict[str, Any]
    """Further options of every run."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Trials of one algorithm on one task."""

    env: str
    algo: str
    out: Path
    jobs: Sequence[Job]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.env} {ALGORITHMS[self.algo].title}"


def parts(asked: Asked, plan: Plan, out: Path) -> Iterator[Part]:
    """The experiments that were asked for.

    Raises:
        ConfigError: options that a run can't have.
    """
    for env in asked.envs:
        for algo in asked.algos:
            shared = {"preset": plan.preset, "num_envs": NUM_ENVS, **plan.options}
            # As with the paper's single environment an episode begins every so many steps from the start:
            # 25 whose first ones begin together have seen no other beginning after 25,000 steps.
            shared = {"spread_phases": shared["num_envs"] > 1, **shared}
            shared |= {"env": env, "total_env_steps": plan.steps, "devices": 1, "wandb": asked.wandb}
            config = resolve(shared | dict(ALGORITHMS[algo].options), plan.platform)
            make_schedule(config)
            jobs = [
                Job(seed + 1, dataclasses.replace(config, seed=seed), f"--seed={seed}")
                for seed in range(asked.seeds)
            ]
            yield Part(env, algo, out / env / algo, jobs)


def begin(out: Path, plan: Plan) -> None:
    """Note the plan in ``out``, which this process holds, or check that it holds experiments of the same.

    Raises:
        ConfigError: it can't be written, or holds others.
    """
    path = out / PLAN
    try:
        if path.exists():
            before = json.loads(path.read_text())
            for name, value in json.loads(json.dumps(dataclasses.asdict(plan))).items():
                if before.get(name) != value:
                    had = before.get(name)
                    told = " ".join(f"{k} {show(v)}" for k, v in {"there": had, "now": value}.items())
                    raise ConfigError("out", str(out), f"its experiments have other {name} ({told})")
        elif any(found.suffix != ".tmp" for found in out.iterdir()):
            raise ConfigError("out", str(out), "is not empty; choose another folder")
        else:
            text = json.dumps(dataclasses.asdict(plan), indent=2) + "\n"
            files.write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("out", str(out), f"{PLAN} can't be read") from None


def job(argv: Sequence[str]) -> int:
    """Run what is left of the experiments, and write their page; returns the exit code."""
    asked, options = parse(argv)
    wandb_run.check_environment(asked.wandb, line, packed=True)
    with Signals() as signals:
        prepare_jax(bool(options.get("deterministic", False)), asked.devices)
        import jax

        there = len(jax.devices())
        if asked.devices > there:
            raise ConfigError("devices", asked.devices, f"there {'is' if there == 1 else 'are'} {there}")
        plan = Plan(asked.preset, asked.steps, asked.quick, platform(), options)
        with folder.create_and_lock(asked.out, "reproduce") as out:
            every = list(parts(asked, plan, out))
            begin(out, plan)
            code = 0
            for i, part in enumerate(every, 1):
                steps = make_schedule(part.jobs[0].config).total_env_steps
                trials = counted(len(part.jobs), "trial")
                line(f"{part.name}: {trials} of {steps:,} steps ({i} of {len(every)})")
                code |= _train(part, asked, signals)
                if signals.code:
                    break
                page = write(out, plan, argv)
    if signals.code:
        line("stopped; the same command goes on")
        return signals.code
    line(f"the page: {page}")
    return code


def write(out: Path, plan: Plan, argv: Sequence[str]) -> Path:
    """The page of all that is in ``out``."""
    title = f"TD3 on Gymnasium's MuJoCo tasks: {paper.SOURCE} reproduced"
    asked = command("reproduce", *argv)
    notes = [REDUCED] if plan.quick else []
    if plan.options:
        said = " ".join(f"--{name}={show(value)}" for name, value in plan.options.items())
        notes.append(f"With options of its own beside those of the preset {plan.preset}: {said}")

    def left_out(error: RunsError) -> None:
        notes.append(f"left out: {error}")
        line(f"warning: left out: {error}")

    return Page(group(find([str(out)], left_out), plan.options), title, notes, asked).write(out)


def _train(part: Part, asked: Asked, signals: Signals) -> int:
    """What is left of one part; returns 1 where a trial diverged."""
    part.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(part.out)
    shared = Shared(
        part.out,
        line,
        lambda one: Membership(f"{part.name} seed {one.config.seed}", part.name, project()),
        signals,
        journal,
        "eval/return_mean",
    )
    import jax

    train_jobs(shared, part.jobs, asked.members or len(part.jobs), asked.devices or len(jax.devices()))
    if signals.code:
        return 0
    for one in part.jobs:
        results.score(part.out / f"{one.number:03d}", one.config)
    if part.algo == "td3":
        results.film(part.out)
    if asked.wandb != "disabled":
        results.aggregate(part.out, part.name, [one.config for one in part.jobs])
    return int(any(end.code for end in journal.ends.values()))


def guarded_job(argv: Sequence[str]) -> int:
    """:func:`job`; runs that can't be read become one line."""
    try:
        return job(argv)
    except RunsError as error:
        return fail(error)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(guarded_job, argv)


if __name__ == "__main__":
    sys.exit(main())
