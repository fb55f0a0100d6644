"""Write a run's metrics to a file of JSON lines, and show them to people."""

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
"""Maps the name of a metric to its number, or to None if there is none."""


def duration(seconds: float) -> str:
    """Format seconds: ``75`` becomes ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


class JsonLines:
    """``metrics.jsonl``: one JSON object per report, in whole lines, written immediately.

    Lines that can't be written (full disk) are kept in memory and tried again with the next line.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._path, self._warn, self._failing = path, warn, False
        self._end = os.fstat(self._file).st_size
        self._pending = ""
        self._last = (self._end, "")

    @property
    def tail(self) -> tuple[int, str]:
        """A position in the file, in bytes, and the text after it: the lines that may not be on disk."""
        return (self._end, self._pending) if self._pending else self._last

    def write(self, report: Report) -> None:
        """Append one report; numbers that are not finite become null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in report.items()}
        self._append(json.dumps(clean) + "\n")

    def rewrite_last(self, report: Report) -> None:
        """Replace the last line by ``report``."""
        self.restore_tail(self._last[0], "")
        self.write(report)

    def resume(self, position: int, text: str) -> None:
        """Restore the ``tail`` of an earlier process.

        If the file has been cut or changed before ``position``, keep its whole lines and print a warning.
        """
        before = os.pread(self._file, min(position, self._end), 0)
        if len(before) < position or (before and not before.endswith(b"\n")):
            position = before.rfind(b"\n") + 1
            left = before.count(b"\n")
            self._warn(
                f"warning: {self._path} was removed or changed after the checkpoint; {left} of its earlier "
                "reports are left"
            )
        self.restore_tail(position, text)

    def restore_tail(self, position: int, text: str) -> None:
        """Restore an earlier ``tail``: remove what follows ``position``, then append ``text``."""
        self._pending = self._pending[: max(position - self._end, 0)]
        if position < self._end:
            os.ftruncate(self._file, position)
            self._end = position
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
                    f"warning: {self._path} could not be written ({error.strerror}); "
                    "trying again with each report"
                )
            self._failing = True
        self._end += done
        self._pending = self._pending[done:]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class TerminalBar:
    """A progress bar at the bottom of a terminal."""

    def __init__(self, console: Console, total: int) -> None:
        columns = BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}")
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def show(self, done: int, text: str) -> None:
        """Move the bar to ``done`` and show ``text``."""
        self._progress.update(self._task, completed=done, description=text)

    def close(self) -> None:
        """Stop the bar and leave it as it is."""
        self._progress.stop()


class NotebookBar:
    """A progress bar in the output of a notebook's cell."""

    def __init__(self, total: int) -> None:
        from IPython import display

        self._total, self._html = total, display.HTML
        self._shown = display.display(self._html(""), display_id=True)

    def show(self, done: int, text: str) -> None:
        """Move the bar to ``done`` and show ``text``."""
        self._shown.update(self._html(f'<progress value="{done}" max="{self._total}"></progress> {text}'))

    def close(self) -> None:
        """Stop the bar and leave it as it is."""


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel, which can show HTML."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class Display:
    """Progress display: a bar in a terminal or a notebook, plain lines elsewhere; nothing if ``quiet``."""

    def __init__(self, total_env_steps: int, quiet: bool = False) -> None:
        self.console = Console(highlight=False, soft_wrap=True, force_jupyter=False, quiet=quiet)
        self._total = total_env_steps
        self._began = time.perf_counter()
        self._first = 0
        self._best = -math.inf
        self._last: float | None = None
        self._bar: TerminalBar | NotebookBar | None = None

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one; escape characters that the stream can't encode."""
        encoding = self.console.encoding
        self.console.print(text.encode(encoding, "backslashreplace").decode(encoding), markup=False)

    def begin(self, env_steps: int = 0, best: float = -math.inf) -> None:
        """Note that training starts or resumes now; speed and remaining time count from here."""
        self._began, self._first, self._best = time.perf_counter(), env_steps, best
        if in_notebook():
            self._bar = NotebookBar(self._total)
        elif self.console.is_terminal:
            self._bar = TerminalBar(self.console, self._total)

    def show(self, report: Mapping[str, Any]) -> None:
        """Show one report: move the bar, and print a line for an evaluation (for every report if no bar)."""
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
            result = "no greedy return"
            if self._last is not None:
                result = (
                    f"greedy return {spread(self._last, report['eval/return_std'])}, "
                    f"length {report['eval/length_mean']:,.0f}"
                )
            self.line(
                f"{steps:>11,} steps  {duration(report['wall_s']):>12}  {result}  ({speed}, {left} left)"
            )
        elif not self._bar:
            trained = report["train/return_mean"]
            exploring = "" if trained is None else f"  exploring return {number(trained)}"
            self.line(f"{steps:>11,} steps  {duration(report['wall_s']):>12}{exploring}  ({speed})")

    def close(self) -> None:
        """Stop the bar and leave it as it is."""
        if self._bar:
            self._bar.close()
