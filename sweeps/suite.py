"""Train one recipe on many tasks, and score it as a share of each task's reference.

    python sweeps/suite.py --out runs/suite                        # all tasks
    python sweeps/suite.py --out runs/short --short                # the short form
    python sweeps/suite.py --out runs/tau --options '{"tau": 0.1}' # `quick` with one change
    python sweeps/suite.py --out runs/suite --tasks ant,hopper

``tasks/suite.yaml`` lists the tasks and their references. Each task is one packed sweep with one member for
each seed, and each core trains one task at a time. Start the command again to continue: finished tasks are
kept, and an interrupted task starts anew. The table is printed and written to ``suite.md`` in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from td3_brax.commands.report.runs import Run, RunsError, find
from td3_brax.commands.report.stats import iqm
from td3_brax.commands.report.tables import number

FILE = Path(__file__).parent / "tasks" / "suite.yaml"
LAST = 4
"""Evaluations at the end of a run that its score averages."""
RESAMPLES = 2000
"""Bootstrap resamples of the interquartile mean."""
PARTS = ("search", "final")


@dataclass(frozen=True)
class Scored:
    """The runs of one task, and their scores."""

    task: str
    part: str
    runs: Sequence[Run]
    returns: np.ndarray
    """[S] mean return of each seed's last evaluations."""
    shares: np.ndarray
    """[S] the returns as shares: 0 is the task's floor, 1 is its reference."""

    @property
    def minutes(self) -> float:
        """Minutes until the slowest seed ended, with compiling and evaluations."""
        return max(float(run.reports[-1].get("wall_s") or 0.0) for run in self.runs) / 60


def load(path: Path = FILE) -> dict[str, Any]:
    """Read the suite's file."""
    suite: dict[str, Any] = yaml.safe_load(path.read_text())
    return suite


def chosen(suite: Mapping[str, Any], names: str | None, short: bool) -> list[str]:
    """Return the names of the tasks to train.

    Raises:
        SystemExit: a name is not a task of the suite.
    """
    if names is None:
        return [name for name, task in suite["tasks"].items() if task.get("short") or not short]
    asked = names.split(",")
    for name in asked:
        if name not in suite["tasks"]:
            raise SystemExit(
                f"--tasks={names}: {name} is not a task of the suite: {', '.join(suite['tasks'])}"
            )
    return asked


def sweep_file(suite: Mapping[str, Any], name: str, env_steps: int, options: Mapping[str, Any]) -> str:
    """Return the text of the sweep that trains a task: the task's options, then ``options``, then seeds."""
    values = {"env": name, **suite["tasks"][name].get("options", {})}
    values |= {"total_env_steps": env_steps, "eval_every": env_steps // suite["evaluations"]}
    values |= {"checkpoint_every_min": 0, **options}
    parameters = {option: {"value": value} for option, value in values.items()}
    sweep = {
        "name": name,
        "method": "grid",
        "metric": {"name": "eval/return_mean", "goal": "maximize"},
        "parameters": parameters | {"seed": {"values": suite["seeds"]}},
    }
    return yaml.safe_dump(sweep, sort_keys=False)


def folder(out: Path, name: str) -> Path:
    """Return the folder of a task's runs."""
    return out / name.replace(":", "-")


def read(out: Path, name: str) -> list[Run]:
    """Return a task's evaluated runs; none if it was not trained."""
    try:
        return find([str(folder(out, name))])
    except RunsError:
        return []


def finished(runs: Sequence[Run], sweep: str) -> bool:
    """Return whether ``runs`` are all runs of a sweep file's text, trained to their end.

    Raises:
        SystemExit: the runs have other options.
    """
    parameters = yaml.safe_load(sweep)["parameters"]
    wanted = {option: given["value"] for option, given in parameters.items() if "value" in given}
    for run in runs:
        had = json.loads(json.dumps({option: run.config[option] for option in wanted}))
        for option, value in wanted.items():
            if had[option] != value:
                raise SystemExit(f"{run.name}: has {option} {had[option]}, not {value}; use another --out")
    ended = [run for run in runs if run.reports[-1]["env_steps"] >= wanted["total_env_steps"]]
    return sorted(run.config["seed"] for run in ended) == sorted(parameters["seed"]["values"])


def train(place: Path, sweep: str, cores: Sequence[int]) -> int:
    """Train a task's seeds together on ``cores``; return the exit code."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    file = place.with_name(f"{place.name}.yaml")
    file.write_text(sweep)
    command = [sys.executable, "-m", "td3_brax", "sweep", str(file), f"--out={place}", "--wandb=disabled"]
    with place.with_name(f"{place.name}.log").open("w") as log:
        return subprocess.run(
            [*command, "--devices=1"],
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        ).returncode


def score(suite: Mapping[str, Any], name: str, runs: Sequence[Run]) -> Scored:
    """Score a task's runs."""
    task = suite["tasks"][name]
    floor = float(task.get("floor", 0))
    returns = np.array(
        [np.mean([report["eval/return_mean"] for report in run.evaluations[-LAST:]]) for run in runs]
    )
    return Scored(name, task["part"], runs, returns, (returns - floor) / (task["reference"] - floor))


def interval(scores: Sequence[Scored]) -> tuple[float, float, float]:
    """Return the interquartile mean of all shares, and its 95% interval.

    The interval is a percentile bootstrap over the seeds of each task (Agarwal et al. 2021, arXiv
    2108.13264) with a fixed seed.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.choice(one.shares, (RESAMPLES, len(one.shares))) for one in scores]
    low, high = np.percentile(iqm(np.concatenate(drawn, axis=1), axis=1), [2.5, 97.5])
    return float(iqm(np.concatenate([one.shares for one in scores]))), float(low), float(high)


def returns(one: Scored) -> str:
    """Return the return of each seed, as text."""
    return ", ".join(number(value) for value in one.returns)


def rows(suite: Mapping[str, Any], scores: Sequence[Scored]) -> list[list[str]]:
    """Return the table's rows: one for each task, lowest share first."""
    table = []
    for one in sorted(scores, key=lambda one: float(one.shares.mean())):
        task = suite["tasks"][one.task]
        row = [f"`{one.task}`", one.part, f"{one.shares.mean():.2f}"]
        row += [returns(one)]
        row += [f"{task['reference']:,} ({task['source']})"]
        table.append([*row, f"{one.runs[0].reports[-1]['env_steps']:,}", f"{one.minutes:.0f}"])
    return table


HEAD = ["task", "part", "share", "return of each seed", "reference", "steps", "minutes"]


def summary(scores: Sequence[Scored]) -> list[str]:
    """Return a line for each part and one for both: interquartile mean, interval, worst task."""
    lines = []
    for part in (*PARTS, "all"):
        some = [one for one in scores if part in (one.part, "all")]
        if some:
            mean, low, high = interval(some)
            worst = min(some, key=lambda one: float(one.shares.mean()))
            lines.append(
                f"{part}: {len(some)} tasks, interquartile mean {mean:.3f} [{low:.3f}, {high:.3f}], "
                f"worst {worst.task} {worst.shares.mean():.2f}"
            )
    return lines


def markdown(suite: Mapping[str, Any], scores: Sequence[Scored]) -> str:
    """Return the table and the summary as Markdown."""
    table = [HEAD, ["---"] * len(HEAD), *rows(suite, scores)]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([*lines, "", *(f"- {line}" for line in summary(scores))]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is left, then print and write the table; return 1 if a task failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the suite's runs")
    parser.add_argument("--short", action="store_true", help="fewer tasks and steps")
    parser.add_argument("--tasks", metavar="A,B", help="only these tasks")
    parser.add_argument("--env_steps", type=int, help="environment steps of each run")
    parser.add_argument("--options", type=json.loads, default={}, help="options of every run, as JSON")
    parser.add_argument("--at_once", type=int, help="tasks that train at once (default: one on each core)")
    args = parser.parse_args(argv)
    suite = load()
    names = chosen(suite, args.tasks, args.short)
    env_steps = args.env_steps or suite["short_env_steps" if args.short else "env_steps"]
    sweeps = {name: sweep_file(suite, name, env_steps, args.options) for name in names}
    left = [name for name in names if not finished(read(args.out, name), sweeps[name])]

    available = sorted(os.sched_getaffinity(0))
    count = min(args.at_once or len(available), len(available))
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for i in range(count):
        free.put(available[i::count])

    def work(name: str) -> int:
        cores = free.get()
        print(name, flush=True)
        try:
            return train(folder(args.out, name), sweeps[name], cores)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(count) as pool:
        codes = dict(zip(left, pool.map(work, left), strict=True))
    for name, code in codes.items():
        if code:
            print(f"{name} ended with code {code}, see {folder(args.out, name)}.log", file=sys.stderr)
    scores = [
        score(suite, name, runs) for name in names if finished(runs := read(args.out, name), sweeps[name])
    ]
    if scores:
        text = markdown(suite, scores)
        (args.out / "suite.md").write_text(text)
        print(text, end="")
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
