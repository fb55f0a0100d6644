"""Learning curves of several trials, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from td3_brax.commands.report.groups import Group
from td3_brax.commands.report.runs import Run

RESAMPLES = 2000
TRIM = 0.25
"""Share of the trials that an interquartile mean leaves out at either end."""
LAST = 10
"""Evaluations that the paper's table 2 averages."""


@dataclass(frozen=True)
class Curves:
    """Greedy returns of S trials at the T environment steps at which all of them were evaluated."""

    env_steps: np.ndarray
    """[T]"""
    returns: np.ndarray
    """[S, T], each the mean of an evaluation's episodes."""
    q_mean: np.ndarray
    """[S, T], the critic's value of what the policy does; NaN where it was not compared."""
    q_true: np.ndarray
    """[S, T], the discounted return that followed."""

    @property
    def mean(self) -> np.ndarray:
        """[T]"""
        return self.returns.mean(axis=0)

    @property
    def half_std(self) -> np.ndarray:
        """[T], half a standard deviation over trials, as the paper shades."""
        return self.returns.std(axis=0) / 2

    @property
    def best(self) -> tuple[float, float, int]:
        """The paper's max average return: the mean curve's highest point, the deviation there, and where."""
        at = int(self.mean.argmax())
        return float(self.mean[at]), float(2 * self.half_std[at]), int(self.env_steps[at])

    @property
    def last(self) -> np.ndarray:
        """[S], each trial's average over its last ten evaluations (the paper's table 2)."""
        return self.returns[:, -LAST:].mean(axis=1)


def curves(group: Group) -> Curves | None:
    """Of a group's trials; None where they were never evaluated at the same step."""
    own = [{int(r["env_steps"]): r for r in run.evaluations} for run in group.runs]
    shared = sorted(set.intersection(*(set(one) for one in own)))
    if not shared:
        return None

    def column(name: str) -> np.ndarray:
        values = [[one[step].get(name) for step in shared] for one in own]
        return np.array([[math.nan if v is None else v for v in row] for row in values], float)

    return Curves(np.array(shared), *map(column, ("eval/return_mean", "eval/q_mean", "eval/q_true")))


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean of [S, ...] over the first axis: without the lowest and the highest quarter."""
    cut = int(TRIM * len(values))
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(axis=0)


def interval(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% interval [T] of the interquartile mean of [S, T], from trials drawn again (percentile bootstrap;
    Agarwal et al. 2021, arXiv 2108.13264). The draws are always the same."""
    trials = len(returns)
    drawn = np.random.default_rng(0).integers(trials, size=(RESAMPLES, trials))
    means = np.stack([iqm(returns[rows]) for rows in drawn])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def goals(group: Group, paper: float | None) -> list[float]:
    """Returns worth a time: shares of the paper's; else four to nine round numbers on the way to the best
    return, from 0 or, where no return is above it, from the first."""
    if paper is not None and paper > 0:
        return [share * paper for share in (0.25, 0.5, 0.75, 0.9, 1.0)]
    best = max(r["eval/return_mean"] for run in group.runs for r in run.evaluations)
    low = 0.0 if best > 0 else min(run.evaluations[0]["eval/return_mean"] for run in group.runs)
    if not low < best:
        return []
    unit = 10.0 ** math.floor(math.log10(best - low))
    step = next(unit * part for part in (1, 0.5, 0.2) if (best - low) / (unit * part) >= 4)
    first, last = math.floor(low / step) + 1, math.floor(best / step)
    return [step * k for k in range(first, last + 1)]


def reached(run: Run, goal: float) -> tuple[int, float] | None:
    """Environment steps and seconds (compiling included) at a run's first evaluation at or over ``goal``."""
    for report in run.evaluations:
        if report["eval/return_mean"] >= goal:
            return int(report["env_steps"]), float(report.get("wall_s") or math.nan)
    return None


def median_reached(runs: Sequence[Run], goal: float) -> tuple[int, float] | None:
    """The median of :func:`reached` over trials; None where fewer than half reached it."""
    never = (math.inf, math.inf)
    found = sorted(reached(run, goal) or never for run in runs)
    steps, seconds = found[len(found) // 2]
    return None if math.isinf(steps) else (int(steps), seconds)
