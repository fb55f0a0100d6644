"""The tables of a report, as text for HTML and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from td3_brax.commands.report import paper
from td3_brax.commands.report.groups import Group
from td3_brax.commands.report.stats import Curves, goals, interval, iqm, median_reached
from td3_brax.runs import formatting
from td3_brax.runs.tracking import duration

Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of text with a header row."""

    head: Row
    rows: Sequence[Row]

    @property
    def filled(self) -> Table:
        """Return the table without empty columns."""
        kept = [i for i in range(len(self.head)) if any(row[i] for row in self.rows)]
        return Table([self.head[i] for i in kept], [[row[i] for i in kept] for row in self.rows])


def number(value: float | None) -> str:
    """Format a number with commas for thousands and three digits; empty if None or not finite."""
    return "" if value is None or not math.isfinite(value) else formatting.number(value)


def scored(mean: float, deviation: float | None) -> str:
    """Format a mean with its standard deviation, if there is one."""
    if deviation is None:
        return number(mean)
    return formatting.spread(mean, deviation, "±")


Measured = tuple[Group, Curves]
"""The trials of one experiment, and their learning curves."""


def best(groups: Sequence[Measured]) -> Table:
    """Make the counterpart of the paper's table 1: the max average return of each experiment."""
    rows = []
    for group, curves in groups:
        mean, deviation, at = curves.best
        row = [group.env, group.label, str(len(group.runs)), f"{curves.env_steps[-1]:,}"]
        row += [scored(mean, deviation if len(group.runs) > 1 else None), f"{at:,}"]
        published = paper.BEST.get(paper.family(group.env) or "", {}).get(group.algorithm or "")
        row += [scored(*published) if published else ""]
        row += [_published_best(group, int(curves.env_steps[-1])), _gymnasium(group)]
        rows.append(row)
    head = ["task", "experiment", "trials", "steps", "max average return", "at step"]
    head += [
        "published, 1M steps (v1)",
        "published curve's best to this step",
        "last policy in Gymnasium",
    ]
    return Table(head, rows)


def _published_best(group: Group, steps: int) -> str:
    """Return the highest point of the published TD3 curve up to ``steps`` environment steps."""
    task = paper.family(group.env)
    if group.algorithm != "td3" or not task:
        return ""
    curve = paper.curves()[task]
    return number(float(np.append(curve.mean[1:][curve.env_steps[1:] <= steps], curve.at(steps)).max()))


def _gymnasium(group: Group) -> str:
    """Return the mean and standard deviation over trials of the last policies' scores in Gymnasium."""
    scores = [run.gymnasium["return_mean"] for run in group.runs if run.gymnasium]
    return (
        scored(float(np.mean(scores)), float(np.std(scores)) if len(scores) > 1 else None) if scores else ""
    )


def last(groups: Sequence[Measured]) -> Table | None:
    """Make the counterpart of the paper's table 2, the average of the last evaluations.

    Return None if no task has two experiments.
    """
    tasks = [group.env for group, _ in groups]
    if len(set(tasks)) == len(tasks):
        return None
    rows = []
    for group, curves in groups:
        published = paper.LAST.get(group.algorithm or "", {}).get(paper.family(group.env) or "")
        deviation = float(curves.last.std()) if len(group.runs) > 1 else None
        rows.append([group.env, group.label, scored(float(curves.last.mean()), deviation), number(published)])
    return Table(
        ["task", "experiment", "average of the last 10 evaluations", "published, 1M steps (v1)"], rows
    )


def speed(groups: Sequence[Measured]) -> Table | None:
    """Make a table of the median steps and time to reach each goal; None if there are no goals."""
    rows = []
    for group, _ in groups:
        published = paper.BEST.get(paper.family(group.env) or "", {}).get("td3")
        for goal in goals(group, published.mean if published else None):
            needed = median_reached(group.runs, goal)
            share = f" ({goal / published.mean:.0%} of the paper's)" if published else ""
            steps, spent = (f"{needed[0]:,}", duration(needed[1])) if needed else ("not reached", "")
            rows.append([group.env, group.label, number(goal) + share, steps, spent])
    head = ["task", "experiment", "return", "environment steps", "time, compilation included"]
    return Table(head, rows) if rows else None


def trials(groups: Sequence[Group]) -> Table:
    """Make a table with a row for each run."""
    head = ["run", "task", "experiment", "seed", "steps", "best", "last", "last 10 evaluations"]
    head += ["env steps/s", "time", "last policy in Gymnasium"]
    rows = []
    for group in groups:
        for run in sorted(group.runs, key=lambda run: (run.config["seed"], run.name)):
            returns = [r["eval/return_mean"] for r in run.evaluations]
            real = run.gymnasium
            rows.append(
                [
                    run.name,
                    group.env,
                    group.label,
                    str(run.config["seed"]),
                    f"{run.evaluations[-1]['env_steps']:,}",
                    number(max(returns)),
                    number(returns[-1]),
                    number(float(np.mean(returns[-10:]))),
                    number(run.env_steps_per_s),
                    duration(run.reports[-1].get("wall_s") or 0.0),
                    scored(real["return_mean"], real["return_std"]) if real else "",
                ]
            )
    return Table(head, rows)


def points(groups: Sequence[Measured]) -> Table:
    """Make a table of every point of the averaged curves, in six digits."""
    head = ["task", "experiment", "env_steps", "trials", "mean", "half_std", "iqm", "iqm_low", "iqm_high"]
    head += ["q_mean", "q_true"]
    rows = []
    for group, curves in groups:
        low, high = interval(curves.returns)
        columns = [curves.mean, curves.half_std, iqm(curves.returns), low, high]
        columns += [curves.q_mean.mean(axis=0), curves.q_true.mean(axis=0)]
        for i, steps in enumerate(curves.env_steps):
            values = ["" if math.isnan(column[i]) else f"{column[i]:.6g}" for column in columns]
            rows.append([group.env, group.label, str(steps), str(len(group.runs)), *values])
    return Table(head, rows)


def evaluations(groups: Sequence[Group]) -> Table:
    """Make a table with a row for each evaluation of each run."""
    head = ["run", "task", "experiment", "seed", "env_steps", "return_mean", "return_std", "length_mean"]
    head += ["q_mean", "q_true"]
    rows = []
    for group in groups:
        for run in sorted(group.runs, key=lambda run: (run.config["seed"], run.name)):
            for r in run.evaluations:
                values = [r.get(f"eval/{name}") for name in head[5:]]
                text = ["" if value is None else f"{value:.8g}" for value in values]
                seed, steps = str(run.config["seed"]), str(r["env_steps"])
                rows.append([run.name, group.env, group.label, seed, steps, *text])
    return Table(head, rows)


def as_csv(table: Table) -> str:
    """Format a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.head, *table.rows])
    return text.getvalue()
