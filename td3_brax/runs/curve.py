"""The learning curve of a run."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

REFERENCE = {"ant": (1000.0, "standing still")}
"""Returns reached without learning, drawn as a line for comparison."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the reports in a ``metrics.jsonl``; skip lines that are not reports, as in a damaged file."""
    reports = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            report = json.loads(line)
            if isinstance(report, dict) and "env_steps" in report:
                reports.append(report)
    return reports


def save_curve(metrics: Path, out: Path, env: str, title: str) -> None:
    """Draw the learning curve of ``metrics`` (a ``metrics.jsonl``) into ``out`` (a PNG)."""
    from matplotlib.figure import Figure  # without pyplot, whose backend is the caller's
    from matplotlib.ticker import EngFormatter

    reports = read_metrics(metrics)
    figure = Figure(figsize=(7.5, 4.5), dpi=150)
    axes = figure.subplots()
    trained = [r for r in reports if r.get("train/return_mean") is not None]
    axes.plot(
        [r["env_steps"] for r in trained],
        [r["train/return_mean"] for r in trained],
        color="0.65",
        linewidth=1,
        label="while exploring",
    )
    evaluated = [r for r in reports if r.get("eval/return_mean") is not None]
    steps = [r["env_steps"] for r in evaluated]
    mean = [r["eval/return_mean"] for r in evaluated]
    std = [r["eval/return_std"] for r in evaluated]
    low = [m - s / 2 for m, s in zip(mean, std, strict=True)]
    high = [m + s / 2 for m, s in zip(mean, std, strict=True)]
    axes.plot(steps, mean, color="C0", linewidth=2, marker="o", markersize=3, label="greedy evaluation")
    axes.fill_between(steps, low, high, color="C0", alpha=0.2, linewidth=0, label="half a deviation")
    if env in REFERENCE:
        value, name = REFERENCE[env]
        axes.axhline(value, color="C3", linewidth=1, linestyle="--", label=name)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(out)
