"""Learning curves over trials, and summary statistics of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, trim_mean

from td3_brax.commands.report.groups import Group
from td3_brax.commands.report.runs import Run

RESAMPLES = 2000
"""Bootstrap resamples."""
BATCH = 100
"""Bootstrap resamples that are in memory at a time."""
TRIM = 0.25
"""Share of the trials that an interquartile mean leaves out at each end."""
LAST = 10
"""Evaluations that the paper's table 2 averages."""


@dataclass(frozen=True)
class Curves:
    """Greedy returns of S trials at the T environment steps at which all trials were evaluated."""

    env_steps: np.ndarray
    """[T] environment steps."""
    returns: np.ndarray
    """[S, T] mean return over the episodes of each evaluation."""
    q_mean: np.ndarray
    """[S, T] the critic's value of the policy's actions; NaN if it was not recorded."""
    q_true: np.ndarray
    """[S, T] the discounted return that followed those actions; NaN if it was not recorded."""

    @property
    def mean(self) -> np.ndarray:
        """Mean return over trials [T]."""
        return self.returns.mean(axis=0)

    @property
    def half_std(self) -> np.ndarray:
        """Half a standard deviation over trials [T], which the paper's figures shade."""
        return self.returns.std(axis=0) / 2

    @property
    def best(self) -> tuple[float, float, int]:
        """The paper's max average return: the highest point of the mean curve, the standard deviation over
        trials there, and its environment step."""
        at = int(self.mean.argmax())
        return float(self.mean[at]), float(2 * self.half_std[at]), int(self.env_steps[at])

    @property
    def last(self) -> np.ndarray:
        """Average of the last ten evaluations of each trial [S] (the paper's table 2)."""
        return self.returns[:, -LAST:].mean(axis=1)


def curves(group: Group) -> Curves | None:
    """Return the curves of a group's trials; None if the trials share no evaluation step."""
    by_step = [{int(r["env_steps"]): r for r in run.evaluations} for run in group.runs]
    shared = sorted(set.intersection(*(set(one) for one in by_step)))
    if not shared:
        return None

    def column(name: str) -> np.ndarray:
        values = [[one[step].get(name) for step in shared] for one in by_step]
        return np.array([[math.nan if v is None else v for v in row] for row in values], float)

    return Curves(np.array(shared), *map(column, ("eval/return_mean", "eval/q_mean", "eval/q_true")))


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the interquartile mean of ``values`` over an axis: the mean of the middle half."""
    return trim_mean(values, TRIM, axis=axis)


def interval(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95% interval (low [T], high [T]) of the interquartile mean of ``returns`` [S, T].

    It is a percentile bootstrap over trials (Agarwal et al. 2021, arXiv 2108.13264) with a fixed seed.
    """
    if len(returns) == 1:  # SciPy refuses a single trial
        return returns[0], returns[0]
    return bootstrap(
        (returns,), iqm, n_resamples=RESAMPLES, batch=BATCH, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval


def goals(group: Group, paper: float | None) -> list[float]:
    """Choose the returns for which the page gives the steps and time that trials need to reach them.

    With a positive return ``paper``, they are shares of it. Otherwise they are round numbers, four to nine,
    between 0 and the best return; if no return is above 0, between the first and the best return.
    """
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
    """Return the environment steps and seconds (compilation included) of the run's first evaluation with a
    return of at least ``goal``; None if there is none."""
    for report in run.evaluations:
        if report["eval/return_mean"] >= goal:
            return int(report["env_steps"]), float(report.get("wall_s") or math.nan)
    return None


def median_reached(runs: Sequence[Run], goal: float) -> tuple[int, float] | None:
    """Return the median of :func:`reached` over trials; None if fewer than half reached the goal."""
    never = (math.inf, math.inf)
    found = sorted(reached(run, goal) or never for run in runs)
    steps, seconds = found[len(found) // 2]
    return None if math.isinf(steps) else (int(steps), seconds)
