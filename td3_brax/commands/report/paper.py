"""Results published in the TD3 paper: Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477.

``data/paper_curves.csv`` holds the mean and half a standard deviation of the authors' ten published
learning curves for each task, every 25,000 environment steps.
"""

from __future__ import annotations

import csv
import functools
from importlib import resources
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

SOURCE = "Fujimoto, van Hoof, Meger 2018 (arXiv 1802.09477)"
TASKS = (
    "HalfCheetah",
    "Hopper",
    "Walker2d",
    "Ant",
    "Reacher",
    "InvertedPendulum",
    "InvertedDoublePendulum",
)
STEPS, SEEDS = 1_000_000, 10


class Score(NamedTuple):
    """A mean over ten trials and, if it was published, one standard deviation."""

    mean: float
    deviation: float | None = None


BEST: dict[str, dict[str, Score]] = {
    "HalfCheetah": {"td3": Score(9636.95, 859.065), "ddpg": Score(3305.60), "our-ddpg": Score(8577.29)},
    "Hopper": {"td3": Score(3564.07, 114.74), "ddpg": Score(2020.46), "our-ddpg": Score(1860.02)},
    "Walker2d": {"td3": Score(4682.82, 539.64), "ddpg": Score(1843.85), "our-ddpg": Score(3098.11)},
    "Ant": {"td3": Score(4372.44, 1000.33), "ddpg": Score(1005.30), "our-ddpg": Score(888.77)},
    "Reacher": {"td3": Score(-3.60, 0.56), "ddpg": Score(-6.51), "our-ddpg": Score(-4.01)},
    "InvertedPendulum": {"td3": Score(1000.00, 0.00), "ddpg": Score(1000.00), "our-ddpg": Score(1000.00)},
    "InvertedDoublePendulum": {
        "td3": Score(9337.47, 14.96),
        "ddpg": Score(9355.52),
        "our-ddpg": Score(8369.95),
    },
}
"""The paper's table 1: the highest point of the mean learning curve within a million steps."""

LAST: dict[str, dict[str, float]] = {
    "td3": {"HalfCheetah": 9532.99, "Hopper": 3304.75, "Walker2d": 4565.24, "Ant": 4185.06},
    "td3-dp": {"HalfCheetah": 9590.65, "Hopper": 2407.42, "Walker2d": 4695.50, "Ant": 3754.26},
    "td3-tps": {"HalfCheetah": 8987.69, "Hopper": 2392.59, "Walker2d": 4033.67, "Ant": 4155.24},
    "td3-cdq": {"HalfCheetah": 9792.80, "Hopper": 1837.32, "Walker2d": 2579.39, "Ant": 849.75},
    "our-ddpg": {"HalfCheetah": 8401.02, "Hopper": 1061.77, "Walker2d": 2362.13, "Ant": 564.07},
    "ddpg": {"HalfCheetah": 3162.50, "Hopper": 1731.94, "Walker2d": 1520.90, "Ant": 816.35},
}
"""The paper's table 2: the average of the last ten evaluations. It calls ``our-ddpg`` AHE."""

OTHERS: dict[str, list[tuple[str, str]]] = {
    "Ant": [("Tianshou's TD3", "5116 ± 800"), ("Spinning Up's TD3", "about 3800")]
}
"""Results published by others, after a million steps."""


class Curve(SimpleNamespace):
    """A published learning curve: ``env_steps``, ``mean`` and ``half_std``, each [T]."""

    env_steps: np.ndarray
    mean: np.ndarray
    half_std: np.ndarray

    def at(self, env_steps: float) -> float:
        """Return the mean at ``env_steps``, interpolated linearly between the published points."""
        return float(np.interp(env_steps, self.env_steps, self.mean))


@functools.cache
def curves() -> dict[str, Curve]:
    """Load the published learning curve of each task."""
    columns: dict[str, list[tuple[float, float, float]]] = {}
    with (resources.files("td3_brax") / "data" / "paper_curves.csv").open() as file:
        for row in csv.DictReader(file):
            point = float(row["env_steps"]), float(row["mean"]), float(row["half_std"])
            columns.setdefault(row["task"], []).append(point)
    return {
        task: Curve(**dict(zip(("env_steps", "mean", "half_std"), np.array(rows).T, strict=True)))
        for task, rows in columns.items()
    }


def family(env: str) -> str | None:
    """Return the paper's name of a Gymnasium task: ``Ant`` for ``Ant-v5``, None for tasks not in it."""
    name, _, version = env.rpartition("-v")
    return name if version.isdigit() and name in TASKS else None
