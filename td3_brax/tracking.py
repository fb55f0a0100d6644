"""Where a run's figures go: a file of JSON lines, and a display for people."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

Report = dict[str, Any]
"""Metric name -> number, or None where there is none."""


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class JsonLines:
    """``metrics.jsonl``: one object per report, whole lines only, flushed at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", encoding="utf-8")

    def write(self, report: Report) -> None:
        """Append one report; what is not finite becomes null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in report.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Display:
    """Progress for people: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, total_env_steps: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._total = total_env_steps
        self._began = time.perf_counter()
        self._best = -math.inf
        self._last: float | None = None
        self._progress: Progress | None = None
        self._task: Any = None
        if self.console.is_terminal:
            self._progress = Progress(
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.description}"),
                console=self.console,
            )
            self._task = self._progress.add_task("compiling", total=total_env_steps)

    def line(self, text: str) -> None:
        """One line of text, above the bar if there is one."""
        self.console.print(text, markup=False)

    def begin(self) -> None:
        """Training starts now: rates and time left count from here."""
        self._began = time.perf_counter()
        if self._progress:
            self._progress.start()

    def show(self, report: Mapping[str, Any]) -> None:
        """One report: move the bar; a line for an evaluation (for every report without a terminal)."""
        steps = int(report["env_steps"])
        spent = time.perf_counter() - self._began
        left = duration(spent / steps * max(self._total - steps, 0))
        speed = f"{report['time/env_steps_per_s']:,.0f} steps/s"
        evaluated = "eval/return_mean" in report
        if evaluated:
            self._last = report["eval/return_mean"]
            self._best = max(self._best, self._last or -math.inf)
        score = "" if self._last is None else f", return {self._last:,.0f} (best {self._best:,.0f})"
        if self._progress:
            text = f"{steps:,}/{self._total:,} steps, {speed}, {left} left{score}"
            self._progress.update(self._task, completed=min(steps, self._total), description=text)
        if evaluated:
            self.line(
                f"{steps:>11,} steps  {duration(report['wall_s']):>12}  greedy return "
                f"{report['eval/return_mean']:,.0f} +- {report['eval/return_std']:,.0f}, "
                f"length {report['eval/length_mean']:,.0f}  ({speed}, {left} left)"
            )
        elif not self._progress:
            trained = report["train/return_mean"]
            exploring = "" if trained is None else f"  exploring return {trained:,.0f}"
            self.line(f"{steps:>11,} steps  {duration(report['wall_s']):>12}{exploring}  ({speed})")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._progress:
            self._progress.stop()
