"""Ctrl-C and preemption, and the exit codes of a run."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from td3_brax.runs import folder

INTERRUPTED = 130
"""Ctrl-C, or W&B's own stop: not to be started again."""
PREEMPTED = 75
"""SIGTERM, and all is saved: start me again with --resume."""
TERMINATED = 143
"""SIGTERM, of a run without checkpoints."""
DIVERGED = 1
FAILED = 1
"""The run is at its end, but what it should leave is not there or can't be read."""


def _say(text: str) -> None:
    """A line from within a signal handler, past whatever holds or redirects the streams."""
    os.write(2, f"{text}\n".encode())


class Signals:
    """Ctrl-C (SIGINT) and preemption (SIGTERM), and the exit code each leads to.

    Before training: leave at once. While training: after the chunk; more of them do no harm.
    The handler acts by itself, rather than by raising: an exception raised inside a library's import or
    callback may be swallowed there. Outside the main thread, where Python takes no signals, it does nothing.

    Args:
        alone: whether the process is the command's own. In somebody's program, such as a notebook, SIGTERM
            is theirs, and Ctrl-C before training is a KeyboardInterrupt.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.code = 0
        """What was asked for: ``INTERRUPTED``, ``PREEMPTED``, or 0 for neither yet."""
        self.training = False
        self.new: Path | None = None
        """The folder of a new run, once it is made."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM)[: 1 + self.alone]:
                self._before[number] = signal.signal(number, self._act)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop(self) -> None:
        """As Ctrl-C does; from any thread, in which an exception would be nobody's."""
        if self.training or self.alone:
            self._act(signal.SIGINT, None)
        else:
            self.code = self.code or INTERRUPTED

    def _act(self, number: int, _: object) -> None:
        code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        if not self.training:
            if not self.alone:
                raise KeyboardInterrupt
            if self.new is not None:
                folder.discard(self.new)
            _say("td3-brax: stopped before training began; nothing is lost")
            os._exit(code)  # do not wait for the compiler's threads
        if not self.code:
            _say("stopping after this chunk; what was learnt is saved")
            self.code = code
