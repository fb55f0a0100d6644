"""What a packed sweep keeps in its folder to go on from: its file, its members' starts and ends."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from td3_brax.option import ConfigError
from td3_brax.runs import checkpoint, folder
from td3_brax.runs.files import write_atomically
from td3_brax.runs.outcome import Outcome
from td3_brax.runs.signals import DIVERGED

FILE = "sweep.yaml"
PLAN = "sweep.json"


@dataclass(frozen=True)
class Plan:
    """What a sweep was started with, beside its file."""

    name: str
    seed: int
    members: int
    devices: int
    platform: str
    wandb: str
    sweep_id: str
    entity: str | None
    project: str


@dataclass
class Seat:
    """A member in a checkpoint."""

    place: int
    number: int
    outcome: Outcome
    tail: tuple[int, str]
    trained_s: float
    evaluated_s: float
    files: dict[str, bytes]


@dataclass
class Saved:
    """A checkpoint of all places."""

    path: Path
    arrays: checkpoint.Arrays
    chunks: int
    seats: list[Seat]

    @property
    def places(self) -> int:
        """How many it has, empty ones included."""
        return int(self.arrays[".members.env_steps"].size)


@dataclass
class End:
    """How a member ended."""

    outcome: Outcome
    end: str
    code: int
    last: float | None
    """The sweep's metric in its last report that had it."""


class Journal:
    """``members.jsonl``: a line where a member starts, with its W&B run's id, and one where it ends."""

    def __init__(self, out: Path) -> None:
        self._path = out / "members.jsonl"
        self.ids: dict[int, str | None] = {}
        self.ends: dict[int, End] = {}
        if self._path.exists():
            text = self._path.read_text()
            for line in text[: text.rfind("\n") + 1].splitlines():
                noted = json.loads(line)
                number = noted.pop("number")
                if "end" in noted:
                    outcome = {k: _number(v) for k, v in noted.pop("outcome").items()}
                    self.ends[number] = End(outcome=Outcome(**outcome), **noted)
                else:
                    self.ids[number] = noted["wandb_id"]
            write_atomically(self._path, text[: text.rfind("\n") + 1].encode())

    def look(self, number: int, metric: str, seated: bool) -> bool:
        """Take from a member's own folder that it has ended, where a line that says so is lost.

        The folder of a member of which neither this journal nor a checkpoint (``seated``) knows is put aside.

        Returns:
            whether the folder has told more than this journal.
        """
        out = self._path.parent / f"{number:03d}"
        if number in self.ends or not folder.contains_run(out):
            return False
        if (end := _end_of(out, metric)) is not None:
            self.end(number, end)
            return True
        if number in self.ids or seated:
            return False
        names = (out.with_name(f"{out.name}-before-{i}") for i in itertools.count(1))
        out.rename(next(path for path in names if not path.exists()))
        return True

    def start(self, number: int, wandb_id: str | None) -> None:
        """A member has begun, for the first time or again."""
        self.ids[number] = wandb_id
        self._add({"number": number, "wandb_id": wandb_id})

    def end(self, number: int, end: End) -> None:
        """A member has ended for good."""
        self.ends[number] = end
        self._add({"number": number, **dataclasses.asdict(end)})

    def _add(self, noted: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(noted) + "\n")


def _end_of(out: Path, metric: str) -> End | None:
    """How the member in ``out`` ended, by its metrics; None if it has not."""
    try:
        reports = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        stops = json.loads((out / "config.json").read_text())["on_nonfinite"] == "stop"
        last = reports[-1]
        diverged = stops and last["update/skipped"] > 0
        if not diverged and not folder.is_complete(out):
            return None
        outcome = Outcome(env_steps=last["env_steps"], chunk=len(reports), wall_s=last["wall_s"])
        for report in reports:
            outcome.broken_steps += report.get("env/quarantined", 0)
            outcome.waited_steps += report.get("env/waited", 0)
            outcome.broken = report.get("eval/broken", outcome.broken)
            if (mean := report.get("eval/return_mean")) is not None:
                outcome.return_mean, outcome.return_std = mean, report["eval/return_std"]
                if outcome.improves():
                    outcome.keep(report["env_steps"])
        outcome.kept = _number(last.get("eval/return_kept"))
        outcome.kept_std = _number(last.get("eval/return_kept_std"))
        end, code = ("diverged", DIVERGED) if diverged else ("done", 0)
        return End(outcome, end, code, last.get(metric))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _number(value: Any) -> Any:
    """JSON's ``NaN`` and ``Infinity`` are Python's already; whole numbers stay whole."""
    return math.nan if value is None else value


def check_new(out: Path) -> None:
    """Raise :class:`ConfigError` where ``out`` holds more than a start that was stopped at once leaves."""
    if (out / PLAN).exists():
        raise ConfigError("out", str(out), "holds a sweep already; --resume it, or choose another folder")
    if any(path.name != FILE and path.suffix != ".tmp" for path in out.iterdir()):
        raise ConfigError("out", str(out), "is not empty; choose another folder")


def begin(out: Path, text: bytes, plan: Plan) -> None:
    """Write down what the sweep is.

    Raises:
        ConfigError: the folder can't be written.
    """
    try:
        write_atomically(out / FILE, text)
        write_atomically(out / PLAN, (json.dumps(dataclasses.asdict(plan), indent=2) + "\n").encode())
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None


def read_plan(out: Path) -> Plan:
    """What :func:`begin` wrote.

    Raises:
        ConfigError: no sweep is there.
    """
    try:
        return Plan(**json.loads((out / PLAN).read_text()))
    except (OSError, ValueError, TypeError) as error:
        why = "no sweep is there" if isinstance(error, OSError) else f"{PLAN} can't be read"
        raise ConfigError("resume", str(out), why) from None


def newest(out: Path, line: Any) -> Saved | None:
    """The newest checkpoint that can be used, if there is one."""
    for path in checkpoint.saved(out):
        try:
            arrays, host, files = checkpoint.load(path)
            seats = []
            for seat in host["seats"]:
                place, text = seat.pop("tail")
                prefix = f"{seat['number']:03d}/"
                own = {k.removeprefix(prefix): v for k, v in files.items() if k.startswith(prefix)}
                outcome = Outcome(**seat.pop("outcome"))
                seats.append(Seat(outcome=outcome, tail=(place, text), files=own, **seat))
            return Saved(path, arrays, host["env_steps"], seats)
        except (checkpoint.CheckpointError, KeyError, TypeError, ValueError) as error:
            line(f"warning: {error}; taking the checkpoint before it")
    return None


def clear(out: Path, number: int) -> Path:
    """The folder of a member that starts, or starts again because no checkpoint has it; empty.

    Raises:
        ConfigError: it can't be made.
    """
    path = out / f"{number:03d}"
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir()
    except OSError as error:
        raise ConfigError("out", str(path), f"can't be written ({error.strerror})") from None
    return path
