"""The files from which a packed sweep resumes: its sweep file, its plan, its members' starts and ends."""

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

SWEEP_FILE = "sweep.yaml"
PLAN_FILE = "sweep.json"


@dataclass(frozen=True)
class Plan:
    """The settings that a sweep was started with, apart from its sweep file."""

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
    """A checkpoint of all places of a program."""

    path: Path
    arrays: checkpoint.Arrays
    chunks: int
    seats: list[Seat]

    @property
    def places(self) -> int:
        """Number of places, including empty ones."""
        return int(self.arrays[".members.env_steps"].size)


@dataclass
class End:
    """The end of a member."""

    outcome: Outcome
    end: str
    code: int
    last: float | None
    """The sweep's metric in the member's last report, if the report has it."""


class Journal:
    """``members.jsonl``: a line for each start of a member, with its W&B run's id, and one for its end."""

    def __init__(self, out: Path) -> None:
        self._path = out / "members.jsonl"
        self.ids: dict[int, str | None] = {}
        self.ends: dict[int, End] = {}
        if self._path.exists():
            text = self._path.read_text()
            for line in text[: text.rfind("\n") + 1].splitlines():
                entry = json.loads(line)
                number = entry.pop("number")
                if "end" in entry:
                    outcome = {k: _nan_if_null(v) for k, v in entry.pop("outcome").items()}
                    self.ends[number] = End(outcome=Outcome(**outcome), **entry)
                else:
                    self.ids[number] = entry["wandb_id"]
            write_atomically(self._path, text[: text.rfind("\n") + 1].encode())

    def reconcile(self, number: int, metric: str, seated: bool) -> bool:
        """Compare a member's folder with this journal, which may have lost lines.

        If the folder shows that the member has ended, note its end. If neither this journal nor a checkpoint
        (``seated``) knows the member, rename its folder.

        Returns:
            whether the journal lacked something.
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
        """Note that a member has started, for the first time or again."""
        self.ids[number] = wandb_id
        self._add({"number": number, "wandb_id": wandb_id})

    def end(self, number: int, end: End) -> None:
        """Note that a member has ended for good."""
        self.ends[number] = end
        self._add({"number": number, **dataclasses.asdict(end)})

    def _add(self, entry: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _end_of(out: Path, metric: str) -> End | None:
    """Return how the member in ``out`` ended, according to its metrics; None if it has not ended."""
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
        outcome.kept = _nan_if_null(last.get("eval/return_kept"))
        outcome.kept_std = _nan_if_null(last.get("eval/return_kept_std"))
        end, code = ("diverged", DIVERGED) if diverged else ("done", 0)
        return End(outcome, end, code, last.get(metric))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _nan_if_null(value: Any) -> Any:
    """Return NaN for JSON's null, and any other value unchanged."""
    return math.nan if value is None else value


def check_new(out: Path) -> None:
    """Check that ``out`` is empty, apart from leftovers of a sweep that was stopped before it began.

    Raises:
        ConfigError: the folder contains something else.
    """
    if (out / PLAN_FILE).exists():
        raise ConfigError("out", str(out), "already contains a sweep; --resume it, or choose another folder")
    if any(path.name != SWEEP_FILE and path.suffix != ".tmp" for path in out.iterdir()):
        raise ConfigError("out", str(out), "is not empty; choose another folder")


def write_plan(out: Path, text: bytes, plan: Plan) -> None:
    """Write the sweep file, whose content is ``text``, and the plan to ``out``.

    Raises:
        ConfigError: the folder can't be written.
    """
    try:
        write_atomically(out / SWEEP_FILE, text)
        write_atomically(out / PLAN_FILE, (json.dumps(dataclasses.asdict(plan), indent=2) + "\n").encode())
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None


def read_plan(out: Path) -> Plan:
    """Read the plan that :func:`write_plan` wrote.

    Raises:
        ConfigError: the folder contains no sweep, or its plan can't be read.
    """
    try:
        return Plan(**json.loads((out / PLAN_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        why = "this folder contains no sweep" if isinstance(error, OSError) else f"{PLAN_FILE} can't be read"
        raise ConfigError("resume", str(out), why) from None


def newest_checkpoint(out: Path, line: Any) -> Saved | None:
    """Load the newest usable checkpoint of a sweep; None if there is none."""
    for path in checkpoint.saved(out):
        try:
            arrays, host, files = checkpoint.load(path)
            seats = []
            for seat in host["seats"]:
                place, text = seat.pop("tail")
                prefix = f"{seat['number']:03d}/"
                member_files = {k.removeprefix(prefix): v for k, v in files.items() if k.startswith(prefix)}
                outcome = Outcome(**seat.pop("outcome"))
                seats.append(Seat(outcome=outcome, tail=(place, text), files=member_files, **seat))
            return Saved(path, arrays, host["env_steps"], seats)
        except (checkpoint.CheckpointError, KeyError, TypeError, ValueError) as error:
            line(f"warning: {error}; trying the checkpoint before it")
    return None


def make_member_folder(out: Path, number: int) -> Path:
    """Make an empty folder for a member that starts, or starts again because no checkpoint holds it.

    Raises:
        ConfigError: the folder can't be made.
    """
    path = out / f"{number:03d}"
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir()
    except OSError as error:
        raise ConfigError("out", str(path), f"can't be written ({error.strerror})") from None
    return path
