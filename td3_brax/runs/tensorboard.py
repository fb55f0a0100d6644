"""Write a run's reports as TensorBoard's event files, by tensorboardX."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from td3_brax.config import Config
from td3_brax.option import ConfigError
from td3_brax.runs.tracking import Report

FOLDER = "tensorboard"


def check(config: Config) -> None:
    """Raise :class:`ConfigError` if the run wants event files, but tensorboardX is not installed."""
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        why = "needs the package tensorboardX; install it with: pip install 'td3-brax[tensorboard]'"
        raise ConfigError("tensorboard", True, why)


class EventFiles:
    """The event files of one run. Reports that can't be written are tried again with the next one.

    Each process writes a new file, and so does each new try. TensorBoard then ignores all earlier events from
    the new file's first step on, so that no step is shown twice.

    ``tensorboardX.SummaryWriter`` is not used: its thread ends with the first error, and a run that is
    longer than its queue would then wait for ever.

    Args:
        out: the folder of the run; files go into ``tensorboard`` in it.
        warn: prints a line for people.
    """

    def __init__(self, out: Path, warn: Callable[[str], None]) -> None:
        self._folder, self._warn, self._failing = out / FOLDER, warn, False
        self._writer: Any = None
        self._pending: list[Report] = []

    def resume(self, last: str) -> None:
        """Write the ``last`` lines of ``metrics.jsonl`` again; they replace what an earlier process wrote.

        If there are no event files yet, write all lines.
        """
        lines = last if self._folder.exists() else (self._folder.parent / "metrics.jsonl").read_text()
        self._pending += map(json.loads, lines.splitlines())

    def write(self, report: Report) -> None:
        """Write one report, with its environment steps as the step."""
        self._pending.append(report)
        try:
            self._writer = self._writer or self._new_file(self._pending[0]["env_steps"])
            for waiting in self._pending:
                self._write(waiting)
            self._writer.flush()
            self._pending, self._failing = [], False
        except OSError as error:
            self.close()
            if not self._failing:
                self._warn(
                    f"warning: {self._folder} could not be written ({error.strerror}); "
                    "trying again with each report"
                )
            self._failing = True

    def close(self) -> None:
        """Close the file, if there is one."""
        with contextlib.suppress(OSError):
            if self._writer:
                self._writer.close()
        self._writer = None

    def _new_file(self, first: int) -> Any:
        """Begin a file whose events replace all earlier ones from the step ``first`` on."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(exist_ok=True)
        number = len(list(self._folder.iterdir()))  # TensorBoard reads the files in the order of their names
        writer = EventsWriter(str(self._folder / "events"), f".{number:06d}.{os.getpid()}")
        log = SessionLog(status=SessionLog.START)
        writer.write_event(Event(wall_time=time.time(), step=first, session_log=log))
        return writer

    def _write(self, report: Report) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in report.items()
            if name != "env_steps" and value is not None and math.isfinite(value)
        ]
        step, summary = report["env_steps"], Summary(value=scalars)
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
