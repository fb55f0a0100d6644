"""Ctrl-C and preemption, and the exit codes of a run."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from td3_brax.runs import folder

INTERRUPTED = 130
"""Exit code of Ctrl-C, or of a stop by W&B: the run should not be restarted automatically."""
PREEMPTED = 75
"""Exit code of SIGTERM after a checkpoint was saved: the run should be restarted with --resume."""
TERMINATED = 143
"""Exit code of SIGTERM for a run without checkpoints."""
DIVERGED = 1
FAILED = 1
"""Exit code of a run that trained to its end, but whose results are missing or can't be read."""


def _print_line(text: str) -> None:
    """Print a line from a signal handler, bypassing Python's streams, which may be locked or redirected."""
    os.write(2, f"{text}\n".encode())


class Signals:
    """Handler of Ctrl-C (SIGINT) and preemption (SIGTERM), with the exit code for each.

    Before training, a signal ends the process at once. During training, it ends the run after the current
    chunk; further signals change nothing. The handler does not raise an exception, which a library's import
    or callback might swallow. Outside the main thread, where Python receives no signals, it does nothing.

    Args:
        owns_process: whether the process belongs to the command. In a user's program, such as a notebook,
            SIGTERM is left to the program, and Ctrl-C before training raises a KeyboardInterrupt.
    """

    def __init__(self, owns_process: bool = True) -> None:
        self.owns_process = owns_process
        self.code = 0
        """``INTERRUPTED`` or ``PREEMPTED`` after a signal; 0 before."""
        self.training = False
        self.new_folder: Path | None = None
        """The folder of a new run, once it exists."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM)[: 1 + self.owns_process]:
                self._before[number] = signal.signal(number, self._act)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop(self) -> None:
        """Stop as Ctrl-C does. May be called from any thread, so it raises no exception."""
        if self.training or self.owns_process:
            self._act(signal.SIGINT, None)
        else:
            self.code = self.code or INTERRUPTED

    def _act(self, number: int, _: object) -> None:
        code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        if not self.training:
            if not self.owns_process:
                raise KeyboardInterrupt
            if self.new_folder is not None:
                folder.discard(self.new_folder)
            _print_line("td3-brax: stopped before training began; nothing was lost")
            os._exit(code)  # do not wait for the compiler's threads
        if not self.code:
            _print_line("stopping after this chunk; the run will be saved")
            self.code = code
