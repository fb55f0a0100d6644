"""``td3-brax reproduce``: run the TD3 paper's experiments and write a page that compares the results."""

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
from td3_brax.commands.reproduce.options import NUM_ENVS, Request, parse
from td3_brax.commands.reproduce.results import print_line
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
REDUCED = "This is a reduced version (--quick) with fewer tasks, seeds and steps than the paper."


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings that all experiments in a folder share."""

    preset: str
    steps: int
    quick: bool
    platform: str
    options: dict[str, Any]
    """Further options that apply to every run."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Trials of one algorithm on one task."""

    env: str
    algo: str
    out: Path
    jobs: Sequence[Job]

    @property
    def name(self) -> str:
        """Task and algorithm, as shown to the user."""
        return f"{self.env} {ALGORITHMS[self.algo].title}"


def experiments(request: Request, plan: Plan, out: Path) -> Iterator[Experiment]:
    """Yield the experiments of the request.

    Raises:
        ConfigError: a run can't have these options.
    """
    for env in request.envs:
        for algo in request.algos:
            shared = {"preset": plan.preset, "num_envs": NUM_ENVS, **plan.options}
            # With the paper's single environment, episodes begin throughout training. If 25 environments
            # began their first episodes together, none would begin another one in the first 25,000 steps.
            shared = {"spread_phases": shared["num_envs"] > 1, **shared}
            shared |= {"env": env, "total_env_steps": plan.steps, "devices": 1, "wandb": request.wandb}
            config = resolve(shared | dict(ALGORITHMS[algo].options), plan.platform)
            make_schedule(config)
            jobs = [
                Job(seed + 1, dataclasses.replace(config, seed=seed), f"--seed={seed}")
                for seed in range(request.seeds)
            ]
            yield Experiment(env, algo, out / env / algo, jobs)


def write_or_check_plan(out: Path, plan: Plan) -> None:
    """Write the plan into the folder ``out``, or check that its experiments have the same plan.

    This process must hold the folder's lock.

    Raises:
        ConfigError: the folder can't be written, or holds something else.
    """
    path = out / PLAN
    try:
        if path.exists():
            before = json.loads(path.read_text())
            for name, value in json.loads(json.dumps(dataclasses.asdict(plan))).items():
                if before.get(name) != value:
                    difference = f"{name} {show(before.get(name))}, not {show(value)}"
                    raise ConfigError("out", str(out), f"its experiments were started with {difference}")
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
    """Run what is left of the experiments and write their page; return the exit code."""
    request, options = parse(argv)
    wandb_run.check_environment(request.wandb, print_line, packed=True)
    with Signals() as signals:
        prepare_jax(bool(options.get("deterministic", False)), request.devices)
        import jax

        available = len(jax.devices())
        if request.devices > available:
            raise ConfigError("devices", request.devices, f"only {counted(available, 'device')} available")
        plan = Plan(request.preset, request.steps, request.quick, platform(), options)
        with folder.create_and_lock(request.out, "reproduce") as out:
            requested = list(experiments(request, plan, out))
            write_or_check_plan(out, plan)
            code = 0
            for i, experiment in enumerate(requested, 1):
                steps = make_schedule(experiment.jobs[0].config).total_env_steps
                trials = counted(len(experiment.jobs), "trial")
                rounded = f", {plan.steps:,} rounded up" * (steps != plan.steps)
                print_line(
                    f"{experiment.name}: {trials} of {steps:,} environment steps{rounded} "
                    f"({i} of {len(requested)})"
                )
                code |= _train(experiment, request, signals)
                if signals.code:
                    break
                page = write(out, plan, argv)
    if signals.code:
        print_line("stopped; run the same command again to continue")
        return signals.code
    print_line(f"report: {page}")
    return code


def write(out: Path, plan: Plan, argv: Sequence[str]) -> Path:
    """Write the page about all runs in ``out``; return its path."""
    title = f"TD3 on Gymnasium's MuJoCo tasks: {paper.SOURCE} reproduced"
    typed = command("reproduce", *argv)
    notes = [REDUCED] if plan.quick else []
    if plan.options:
        changed = " ".join(f"--{name}={show(value)}" for name, value in plan.options.items())
        notes.append(f"All runs change these options of the preset {plan.preset}: {changed}")

    def left_out(error: RunsError) -> None:
        notes.append(f"left out a run: {error}")
        print_line(f"warning: left out a run: {error}")

    return Page(group(find([str(out)], left_out), plan.options), title, notes, typed).write(out)


def _train(experiment: Experiment, request: Request, signals: Signals) -> int:
    """Run what is left of one experiment; return 1 if a trial diverged, else 0."""
    experiment.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(experiment.out)
    shared = Shared(
        experiment.out,
        print_line,
        lambda one: Membership(f"{experiment.name} seed {one.config.seed}", experiment.name, project()),
        signals,
        journal,
        "eval/return_mean",
    )
    import jax

    train_jobs(
        shared,
        experiment.jobs,
        request.members or len(experiment.jobs),
        request.devices or len(jax.devices()),
    )
    if signals.code:
        return 0
    for one in experiment.jobs:
        results.score(experiment.out / f"{one.number:03d}", one.config)
    if experiment.algo == "td3":
        results.film(experiment.out)
    if request.wandb != "disabled":
        results.aggregate(experiment.out, experiment.name, [one.config for one in experiment.jobs])
    return int(any(end.code for end in journal.ends.values()))


def guarded_job(argv: Sequence[str]) -> int:
    """Run :func:`job`; runs that can't be read become one line and exit code 2."""
    try:
        return job(argv)
    except RunsError as error:
        return fail(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(guarded_job, argv)


if __name__ == "__main__":
    sys.exit(main())
