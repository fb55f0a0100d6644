"""Runs as they are found on disk: folders of ours, and what W&B keeps offline."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from td3_brax.cli import coerce
from td3_brax.config import FIELDS
from td3_brax.option import ConfigError
from td3_brax.presets import resolve
from td3_brax.runs.tracking import Report

LEFT = ("metrics.jsonl", "policy_last.npz")
"""One of which every run leaves that was evaluated."""
MEASURED = ("eval/return_mean", "eval/q_mean", "eval/q_true", "time/env_steps_per_s", "wall_s")
"""What a page takes from reports, beside their ``env_steps``."""


class RunsError(ValueError):
    """Runs that can't be read. Its text is one line."""


@dataclass(frozen=True)
class Run:
    """One run: its options, its reports, and what else its folder tells."""

    name: str
    """Its path as it was found."""
    config: Mapping[str, Any]
    reports: Sequence[Report]
    about: Sequence[Mapping[str, Any]]
    """A command with versions and device for each process that trained it."""
    gymnasium: Mapping[str, Any] | None
    """Its last policy's score in the real environment."""

    @property
    def evaluations(self) -> list[Report]:
        """Reports with a greedy return."""
        return [r for r in self.reports if r.get("eval/return_mean") is not None]

    @property
    def env_steps_per_s(self) -> float:
        """Its median rate."""
        rates = sorted(r["time/env_steps_per_s"] for r in self.reports if r.get("time/env_steps_per_s"))
        return float(rates[len(rates) // 2]) if rates else 0.0


def find(paths: Sequence[str], left_out: Callable[[RunsError], None] | None = None) -> list[Run]:
    """The runs in ``paths``: a run's folder, W&B's offline folder or file, or a folder that holds such.

    Args:
        left_out: takes what is wrong with each run that can't be read, and the others are returned.
    Raises:
        RunsError: a path has none, or one that can't be read where there is no ``left_out``.
    """
    found: dict[Path, Run] = {}
    damaged: list[RunsError] = []
    for text in paths:
        path = Path(text)
        if not path.exists():
            raise RunsError(f"{text}: no such folder")
        places = list(_below(path))
        if not places:
            raise RunsError(f"{text}: no run is there (neither metrics.jsonl nor W&B's run-*.wandb)")
        for place in places:
            try:
                found[place.resolve()] = _wandb(place) if place.suffix == ".wandb" else _folder(place)
            except RunsError as error:
                damaged.append(error)
    evaluated = [run for run in found.values() if run.evaluations]
    for unread in damaged:
        if left_out is None or not evaluated:
            raise unread
        left_out(unread)
    if not evaluated:
        raise RunsError(f"{', '.join(paths)}: no run there was evaluated yet")
    return evaluated


def _below(path: Path) -> Iterator[Path]:
    """Runs at or below ``path``; what W&B keeps of runs that have folders is left out."""
    begun = (path / "config.json").is_file() and any((path / name).is_file() for name in LEFT)
    if begun or path.suffix == ".wandb":
        yield path
    elif path.is_dir():
        yield from sorted(path.glob("run-*.wandb"))
        known = {"checkpoints", "wandb"} if (path / "members.jsonl").exists() else {"checkpoints"}
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink() and child.name not in known:
                yield from _below(child)


def _folder(path: Path) -> Run:
    reports = _load(path / "metrics.jsonl", _reports)
    config = _load(path / "config.json", json.loads)
    about, scored = (
        _load(file, _such(kind)) if (file := path / name).exists() else kind()
        for name, kind in (("about.json", list), ("gymnasium.json", dict))
    )
    return Run(str(path), _checked(path / "config.json", config), reports, about, scored or None)


def _load(file: Path, read: Callable[[str], Any]) -> Any:
    """What ``read`` makes of a file's text.

    Raises:
        RunsError: it can't be read.
    """
    try:
        return read(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RunsError(f"{file}: can't be read ({why})") from None


def _reports(text: str) -> list[Report]:
    """The whole lines; what a killed process left of one is no report.

    Raises:
        ValueError: one is not a report.
    """
    reports = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            report = json.loads(line)
            measured = [value for name in MEASURED if (value := report.get(name)) is not None]
            numbers = all(isinstance(value, int | float) for value in [report["env_steps"], *measured])
        except (ValueError, KeyError, AttributeError, TypeError):
            numbers = False
        if not numbers:
            raise ValueError(f"line {number} is not a report")
        reports.append(report)
    return reports


def _such(kind: type) -> Callable[[str], Any]:
    """Reads JSON of this ``kind``."""

    def read(text: str) -> Any:
        value = json.loads(text)
        if not isinstance(value, kind):
            raise ValueError(f"it is no {kind.__name__}")
        return value

    return read


def _checked(file: Path, config: Any) -> Mapping[str, Any]:
    """Options as values of our own fields.

    Raises:
        RunsError: they are not.
    """
    try:
        explicit = {name: coerce(name, value) for name, value in config.items() if name in FIELDS}
        return dataclasses.asdict(resolve(explicit, "cpu"))
    except (ConfigError, AttributeError) as error:
        raise RunsError(f"{file}: its options can't be used ({error})") from None


def _wandb(file: Path) -> Run:
    """A run that W&B keeps, by its own reader.

    Raises:
        RunsError: it can't be read.
    """
    command = [shutil.which("wandb") or str(Path(sys.executable).with_name("wandb"))]
    try:
        done = subprocess.run(
            [*command, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True
        )
        records = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise RunsError(f"{file}: W&B can't read it ({error})") from None
    config, reports = _plain(records)
    return Run(str(file.parent), _checked(file, config), reports, [], None)


def _plain(records: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[Report]]:
    """Options and reports in W&B's records; what the client adds of its own begins with an underscore."""
    config: dict[str, Any] = {}
    reports = []
    for record in records:
        if record["type"] in ("run", "config"):
            config |= record[record["type"]].get("config", record[record["type"]]).get("update", {})
        elif record["type"] == "history":
            report = {
                k: v for k, v in record["history"]["item"].items() if not k.startswith(("_", "curve", "film"))
            }
            reports += [report] if report else []
    return {name: value for name, value in config.items() if not name.startswith("_")}, reports
