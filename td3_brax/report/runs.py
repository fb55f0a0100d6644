"""Runs as they are found on disk: folders of ours, and what W&B keeps offline."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from td3_brax.cli import coerce
from td3_brax.config import FIELDS, ConfigError, show
from td3_brax.presets import resolve
from td3_brax.reproduce.algorithms import ALGORITHMS, algorithm_of
from td3_brax.tracking import Report

NOT_GROUPING = {"seed", "out", "devices", "preset", "report_every"}
"""Runs that differ in these, or in how they save, are trials of one experiment."""


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


@dataclass(frozen=True)
class Group:
    """Trials of one experiment: runs of one task with the same options but for the seed."""

    env: str
    label: str
    algorithm: str | None
    """Of the paper's tables, if it is one of them."""
    runs: Sequence[Run]


def find(paths: Sequence[str]) -> list[Run]:
    """The runs in ``paths``: a run's folder, W&B's offline folder or file, or a folder that holds such.

    Raises:
        RunsError: a path has none, or one that can't be read.
    """
    found: list[Run] = []
    for text in paths:
        path = Path(text)
        if not path.exists():
            raise RunsError(f"{text}: no such folder")
        here = list(_below(path))
        if not here:
            raise RunsError(f"{text}: no run is there (neither metrics.jsonl nor W&B's run-*.wandb)")
        found += here
    with_reports = [run for run in found if run.evaluations]
    if not with_reports:
        raise RunsError(f"{', '.join(paths)}: no run there was evaluated yet")
    return with_reports


def _below(path: Path) -> Iterator[Run]:
    """Runs at or below ``path``; what W&B keeps of runs that have folders is left out."""
    if path.suffix == ".wandb":
        yield _wandb(path)
    elif (path / "config.json").is_file() and (path / "metrics.jsonl").is_file():
        yield _folder(path)
    elif path.is_dir():
        for file in sorted(path.glob("run-*.wandb")):
            yield _wandb(file)
        known = {"checkpoints", "wandb"} if (path / "members.jsonl").exists() else {"checkpoints"}
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink() and child.name not in known:
                yield from _below(child)


def _folder(path: Path) -> Run:
    try:
        text = (path / "metrics.jsonl").read_text()
        reports = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        config = json.loads((path / "config.json").read_text())
        about, scored = (
            json.loads(file.read_text()) if file.exists() else None
            for file in (path / "about.json", path / "gymnasium.json")
        )
    except (OSError, ValueError) as error:
        raise RunsError(f"{path}: can't be read ({error})") from None
    return Run(str(path), _checked(path, config), reports, about or [], scored)


def _checked(path: Path, config: Any) -> Mapping[str, Any]:
    """Options as values of our own fields.

    Raises:
        RunsError: they are not.
    """
    try:
        explicit = {name: coerce(name, value) for name, value in config.items() if name in FIELDS}
        return dataclasses.asdict(resolve(explicit, "cpu"))
    except (ConfigError, AttributeError) as error:
        raise RunsError(f"{path}: its options can't be used ({error})") from None


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


def group(runs: Sequence[Run], further: Mapping[str, Any] | None = None) -> list[Group]:
    """Trials together, tasks and then experiments in the order of the paper, or else as they were found.

    Args:
        further: options that runs may have beside an algorithm's, and still be called by its name.
    """
    together: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = tuple(
            run.config[name]
            for name, field in FIELDS.items()
            if name not in NOT_GROUPING and not field.metadata["may_change"]
        )
        together.setdefault(key, []).append(run)
    groups = [_group(own, runs, further or {}) for own in together.values()]
    order = {name: i for i, name in enumerate(ALGORITHMS)}
    tasks = list(dict.fromkeys(run.config["env"] for run in runs))
    return sorted(groups, key=lambda g: (tasks.index(g.env), order.get(g.algorithm or "", len(order))))


def _group(own: Sequence[Run], runs: Sequence[Run], further: Mapping[str, Any]) -> Group:
    first = own[0].config
    preset, env = first["preset"], first["env"]
    base = dataclasses.asdict(resolve({**further, "preset": preset, "env": env}, "cpu"))
    algorithm = algorithm_of(first, base) if preset in ("paper", "author") else None
    if algorithm:
        return Group(env, ALGORITHMS[algorithm].title, algorithm, own)
    varied = [
        name
        for name, field in FIELDS.items()
        if name not in {*NOT_GROUPING, "env"}
        and not field.metadata["may_change"]
        and len({run.config[name] for run in runs if run.config["env"] == env}) > 1
    ]
    presets = {run.config["preset"] for run in runs if run.config["env"] == env}
    options = " ".join(f"--{name}={show(first[name])}" for name in varied)
    return Group(
        env, f"{preset} {options}".strip() if len(presets) > 1 or not options else options, None, own
    )


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
