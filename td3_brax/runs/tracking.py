"""Where a run's figures go: a file of JSON lines, and a display for people."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from td3_brax.runs.formatting import number, spread

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


def one_line(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


class JsonLines:
    """``metrics.jsonl``: one object per report, whole lines only, written at once.

    What can't be written (a full disk) is kept and tried again with the next line.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._path, self._warn, self._failing = path, warn, False
        self._end = os.fstat(self._file).st_size
        self._pending = ""
        self._last = (self._end, "")

    @property
    def tail(self) -> tuple[int, str]:
        """A place in the file, in bytes, and the text that belongs there: all that may not be on disk."""
        return (self._end, self._pending) if self._pending else self._last

    def write(self, report: Report) -> None:
        """Append one report; what is not finite becomes null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in report.items()}
        self._append(json.dumps(clean) + "\n")

    def rewrite_last(self, report: Report) -> None:
        """Put ``report`` in the place of the last line."""
        self.go_back(self._last[0], "")
        self.write(report)

    def resume(self, place: int, text: str) -> None:
        """What was ``tail`` in another process is so again; where the file has no such place any more, the
        whole lines before it stay, and people are told."""
        before = os.pread(self._file, min(place, self._end), 0)
        if len(before) < place or (before and not before.endswith(b"\n")):
            place = before.rfind(b"\n") + 1
            left = before.count(b"\n")
            self._warn(
                f"warning: {self._path} is gone or was changed since the checkpoint: {left} of the reports "
                "before it are left"
            )
        self.go_back(place, text)

    def go_back(self, place: int, text: str) -> None:
        """What was ``tail`` once is so again."""
        self._pending = self._pending[: max(place - self._end, 0)]
        if place < self._end:
            os.ftruncate(self._file, place)
            self._end = place
        if text:
            self._append(text)

    def _append(self, text: str) -> None:
        self._last = (self._end + len(self._pending), text)
        self._pending += text
        data, done = self._pending.encode("ascii"), 0
        try:
            while done < len(data):
                done += os.pwrite(self._file, data[done:], self._end + done)
            self._failing = False
        except OSError as error:
            done = data.rfind(b"\n", 0, done) + 1
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end + done)
            if not self._failing:
                self._warn(
                    f"warning: {self._path}: {error.strerror}; its lines wait until they can be written"
                )
            self._failing = True
        self._end += done
        self._pending = self._pending[done:]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class TerminalBar:
    """A line at the bottom of a terminal."""

    def __init__(self, console: Console, total: int) -> None:
        columns = BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}")
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def show(self, done: int, text: str) -> None:
        """Move to ``done`` and say ``text``."""
        self._progress.update(self._task, completed=done, description=text)

    def close(self) -> None:
        """Leave it as it stands."""
        self._progress.stop()


class NotebookBar:
    """An output of a notebook's cell that is replaced as the run goes on."""

    def __init__(self, total: int) -> None:
        from IPython import display

        self._total, self._html = total, display.HTML
        self._shown = display.display(self._html(""), display_id=True)

    def show(self, done: int, text: str) -> None:
        """Move to ``done`` and say ``text``."""
        self._shown.update(self._html(f'<progress value="{done}" max="{self._total}"></progress> {text}'))

    def close(self) -> None:
        """Leave it as it stands."""


def in_notebook() -> bool:
    """Whether this is a notebook's kernel, which shows more than text."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class Display:
    """Progress for people: a bar on a terminal and in a notebook, plain lines elsewhere; or ``quiet``."""

    def __init__(self, total_env_steps: int, quiet: bool = False) -> None:
        self.console = Console(highlight=False, soft_wrap=True, force_jupyter=False, quiet=quiet)
        self._total = total_env_steps
        self._began = time.perf_counter()
        self._first = 0
        self._best = -math.inf
        self._last: float | None = None
        self._bar: TerminalBar | NotebookBar | None = None

    def line(self, text: str) -> None:
        """One line of text, above the bar if there is one; what its stream can't encode is escaped."""
        encoding = self.console.encoding
        self.console.print(text.encode(encoding, "backslashreplace").decode(encoding), markup=False)

    def begin(self, env_steps: int = 0, best: float = -math.inf) -> None:
        """Training starts, or goes on, now: rates and time left count from here."""
        self._began, self._first, self._best = time.perf_counter(), env_steps, best
        if in_notebook():
            self._bar = NotebookBar(self._total)
        elif self.console.is_terminal:
            self._bar = TerminalBar(self.console, self._total)

    def show(self, report: Mapping[str, Any]) -> None:
        """One report: move the bar; a line for an evaluation (for every report without a terminal)."""
        steps = int(report["env_steps"])
        spent = time.perf_counter() - self._began
        left = duration(spent / max(steps - self._first, 1) * max(self._total - steps, 0))
        speed = f"{report['time/env_steps_per_s']:,.0f} steps/s"
        evaluated = "eval/return_mean" in report
        if evaluated:
            self._last = report["eval/return_mean"]
            best = report["eval/return_best"]
            self._best = -math.inf if best is None else best
        score = "" if self._last is None else f", return {number(self._last)} (best {number(self._best)})"
        if self._bar:
            text = f"{steps:,}/{self._total:,} steps, {speed}, {left} left{score}"
            self._bar.show(min(steps, self._total), text)
        if evaluated:
            said = "no greedy return"
            if self._last is not None:
                said = (
                    f"greedy return {spread(self._last, report['eval/return_std'])}, "
                    f"length {report['eval/length_mean']:,.0f}"
                )
            self.line(f"{steps:>11,} steps  {duration(report['wall_s']):>12}  {said}  ({speed}, {left} left)")
        elif not self._bar:
            trained = report["train/return_mean"]
            exploring = "" if trained is None else f"  exploring return {number(trained)}"
            self.line(f"{steps:>11,} steps  {duration(report['wall_s']):>12}{exploring}  ({speed})")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar:
            self._bar.close()
