"""Read runs from disk: td3-brax's own folders, and W&B's offline files."""

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

RUN_FILES = ("metrics.jsonl", "policy_last.npz")
"""Every run that was evaluated has at least one of these files."""
NUMERIC_METRICS = ("eval/return_mean", "eval/q_mean", "eval/q_true", "time/env_steps_per_s", "wall_s")
"""Metrics that a page reads from reports, in addition to ``env_steps``; they must be numbers."""


class RunsError(ValueError):
    """Raised when runs can't be read. The message is one line."""


@dataclass(frozen=True)
class Run:
    """A run: its options, its reports, and what else its folder holds."""

    name: str
    """Path of its folder, as found."""
    config: Mapping[str, Any]
    reports: Sequence[Report]
    about: Sequence[Mapping[str, Any]]
    """The command, versions and device of each process that trained it."""
    gymnasium: Mapping[str, Any] | None
    """Score of its last policy in the real environment."""

    @property
    def evaluations(self) -> list[Report]:
        """Reports that have a greedy return."""
        return [r for r in self.reports if r.get("eval/return_mean") is not None]

    @property
    def env_steps_per_s(self) -> float:
        """Median environment steps per second."""
        rates = sorted(r["time/env_steps_per_s"] for r in self.reports if r.get("time/env_steps_per_s"))
        return float(rates[len(rates) // 2]) if rates else 0.0


def find(paths: Sequence[str], left_out: Callable[[RunsError], None] | None = None) -> list[Run]:
    """Find the evaluated runs in ``paths``.

    Args:
        paths: each a run's folder, W&B's offline folder or file, or a folder with some of these below it.
        left_out: is called with the error of each run that can't be read; the other runs are returned.
    Raises:
        RunsError: a path has no run, no run was evaluated, or a run can't be read and ``left_out`` is None.
    """
    found: dict[Path, Run] = {}
    damaged: list[RunsError] = []
    for text in paths:
        path = Path(text)
        if not path.exists():
            raise RunsError(f"{text}: no such folder")
        places = list(_run_paths(path))
        if not places:
            raise RunsError(f"{text}: no run found (neither metrics.jsonl nor W&B's run-*.wandb)")
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
        raise RunsError(f"{', '.join(paths)}: no run has been evaluated yet")
    return evaluated


def _run_paths(path: Path) -> Iterator[Path]:
    """Yield the runs at or below ``path``, without W&B's copies of runs that have their own folder."""
    is_run = (path / "config.json").is_file() and any((path / name).is_file() for name in RUN_FILES)
    if is_run or path.suffix == ".wandb":
        yield path
    elif path.is_dir():
        yield from sorted(path.glob("run-*.wandb"))
        skipped = {"checkpoints", "wandb"} if (path / "members.jsonl").exists() else {"checkpoints"}
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink() and child.name not in skipped:
                yield from _run_paths(child)


def _folder(path: Path) -> Run:
    """Read a run's folder."""
    reports = _load(path / "metrics.jsonl", _reports)
    config = _load(path / "config.json", json.loads)
    about, scored = (
        _load(file, _json_of(kind)) if (file := path / name).exists() else kind()
        for name, kind in (("about.json", list), ("gymnasium.json", dict))
    )
    return Run(str(path), _options_of(path / "config.json", config), reports, about, scored or None)


def _load(file: Path, read: Callable[[str], Any]) -> Any:
    """Apply ``read`` to a file's text.

    Raises:
        RunsError: the file can't be read, or ``read`` raised ValueError.
    """
    try:
        return read(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RunsError(f"{file}: can't be read ({why})") from None


def _reports(text: str) -> list[Report]:
    """Parse the complete lines; a line that a killed process left unfinished is ignored.

    Raises:
        ValueError: a line is not a report.
    """
    reports = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            report = json.loads(line)
            measured = [value for name in NUMERIC_METRICS if (value := report.get(name)) is not None]
            numbers = all(isinstance(value, int | float) for value in [report["env_steps"], *measured])
        except (ValueError, KeyError, AttributeError, TypeError):
            numbers = False
        if not numbers:
            raise ValueError(f"line {number} is not a report")
        reports.append(report)
    return reports


def _json_of(kind: type) -> Callable[[str], Any]:
    """Return a function that parses JSON and checks that it is a ``kind``."""

    def read(text: str) -> Any:
        value = json.loads(text)
        if not isinstance(value, kind):
            raise ValueError(f"must be a JSON {'array' if kind is list else 'object'}")
        return value

    return read


def _options_of(file: Path, config: Any) -> Mapping[str, Any]:
    """Convert a run's options to the values of a :class:`Config`.

    Raises:
        RunsError: an option or its value is not allowed.
    """
    try:
        explicit = {name: coerce(name, value) for name, value in config.items() if name in FIELDS}
        return dataclasses.asdict(resolve(explicit, "cpu"))
    except (ConfigError, AttributeError) as error:
        raise RunsError(f"{file}: its options can't be used ({error})") from None


def _wandb(file: Path) -> Run:
    """Read a run from W&B's offline file with W&B's own reader.

    Raises:
        RunsError: W&B can't read the file.
    """
    command = [shutil.which("wandb") or str(Path(sys.executable).with_name("wandb"))]
    try:
        done = subprocess.run(
            [*command, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True
        )
        records = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise RunsError(f"{file}: W&B can't read it ({error})") from None
    config, reports = _wandb_content(records)
    return Run(str(file.parent), _options_of(file, config), reports, [], None)


def _wandb_content(records: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[Report]]:
    """Extract options and reports from W&B's records, without the keys that W&B's client adds."""
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
