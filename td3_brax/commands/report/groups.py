"""Runs as trials of experiments, each named by what sets it apart from the others on its task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from td3_brax.commands.report.algorithms import ALGORITHMS, algorithm_of
from td3_brax.commands.report.runs import Run
from td3_brax.config import FIELDS
from td3_brax.option import show
from td3_brax.presets import PLATFORMS, resolve

APART = tuple(
    name
    for name, field in FIELDS.items()
    if name not in ("preset", "seed", "out", "env", "devices", "report_every")
    and not field.metadata["may_change"]
)
"""Options that set experiments on a task apart; runs that differ in others are trials of one."""
PAPERS = {"paper": "paper", "our-ddpg": "paper", "author": "author"}
"""Presets of the paper's algorithms, and which of them is their TD3."""


@dataclass(frozen=True)
class Group:
    """Trials of one experiment: runs of one task with the same options but for the seed."""

    env: str
    label: str
    """No other group of the same task has it."""
    algorithm: str | None
    """Of the paper's tables, if it is one of them."""
    runs: Sequence[Run]
    changed: Mapping[str, Any]
    """Options that are not what its preset has for the task."""


@dataclass(frozen=True)
class _Known:
    """What names a group is chosen from."""

    runs: Sequence[Run]
    options: Mapping[str, Any]
    """What sets it apart."""
    changed: Mapping[str, Any]
    preset: str
    platform: str
    algorithm: str | None


def group(runs: Sequence[Run], further: Mapping[str, Any] | None = None) -> list[Group]:
    """Trials together, tasks and then experiments in the order of the paper, or else as they were found.

    Args:
        further: options that runs may have beside an algorithm's, and still be called by its name.
    """
    together: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = (run.config["env"], *_apart(run.config).values())
        together.setdefault(key, []).append(run)
    tasks: dict[str, list[_Known]] = {}
    for own in together.values():
        tasks.setdefault(own[0].config["env"], []).append(_known(own, further or {}))
    order = {name: i for i, name in enumerate(ALGORITHMS)}
    groups = []
    for env, every in tasks.items():
        every.sort(key=lambda one: order.get(one.algorithm or "", len(order)))
        groups += [
            Group(env, label, one.algorithm, one.runs, one.changed)
            for one, label in zip(every, _labels(every), strict=True)
        ]
    return groups


def _apart(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that set a run apart: its length only where the step sizes depend on it."""
    return {
        "total_env_steps": config["total_env_steps"] if config["lr_decay"] else 0,
        **{name: config[name] for name in APART},
    }


def _known(runs: Sequence[Run], further: Mapping[str, Any]) -> _Known:
    config = runs[0].config
    options, preset = _apart(config), config["preset"]
    sized = {name: config[name] for name in ("preset", "env", "total_env_steps", "num_envs")}

    def changed(platform: str) -> dict[str, Any]:
        """Options that are not the preset's on ``platform``; what follows from sizes is no change."""
        base = dataclasses.asdict(resolve({"preset": preset, "env": config["env"]}, platform))
        base |= {"warmup_env_steps": resolve(sized, platform).warmup_env_steps}
        return {name: value for name in APART if (value := config[name]) != base[name]}

    platform = min(PLATFORMS, key=lambda platform: len(changed(platform)))
    algorithm = None
    if preset in PAPERS:
        td3 = resolve({**further, "preset": PAPERS[preset], "env": config["env"]}, "cpu")
        algorithm = algorithm_of(config, dataclasses.asdict(td3))
    return _Known(runs, options, changed(platform), preset, platform, algorithm)


def _labels(every: Sequence[_Known]) -> list[str]:
    """A name for each group of a task: the paper's, or its preset (where there are several) and the options
    in which it differs from its preset and from others; more of them where that does not tell it apart."""
    presets = {one.preset for one in every}
    papers = {PAPERS[one.preset] for one in every if one.algorithm}
    labels = []
    for one in every:
        kin = [other for other in every if other.preset == one.preset]
        names = [
            name
            for name, value in one.options.items()
            if any(name in other.changed for other in kin)
            and any(other.options[name] != value for other in every)
        ]
        platforms = len({other.platform for other in kin}) > 1
        preset = one.preset + f" ({PLATFORMS[one.platform]})" * platforms
        options = _said(one, names)
        if one.algorithm:
            paper = f" ({PAPERS[one.preset]})" * (len(papers) > 1)
            labels.append(ALGORITHMS[one.algorithm].title + paper)
        else:
            labels.append(
                f"{preset} {options}".strip() if len(presets) > 1 or platforms else options or preset
            )
    for wanted, exact in ((_changed_among, False), (_varied_among, False), (_varied_among, True)):
        for label in [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
            places = [i for i, other in enumerate(labels) if other == label]
            alike = [every[i] for i in places]
            for i in places:
                more = [name for name in wanted(alike) if exact or f" --{name}=" not in f" {label}"]
                labels[i] = f"{label} {_said(every[i], more, exact)}".strip()
    return labels


def _said(one: _Known, names: Sequence[str], exact: bool = False) -> str:
    """Options as text; numbers to four digits unless ``exact``."""
    values = {name: one.options[name] for name in names}
    if not exact:
        values = {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in values.items()}
    return " ".join(f"--{name}={show(value)}" for name, value in values.items())


def _varied_among(alike: Sequence[_Known]) -> list[str]:
    """Options in which these differ."""
    return [name for name in alike[0].options if len({one.options[name] for one in alike}) > 1]


def _changed_among(alike: Sequence[_Known]) -> list[str]:
    """Of those the ones that somebody chose: not what presets make of them."""
    return [
        name
        for name in _varied_among(alike)
        if name == "total_env_steps" or any(name in one.changed for one in alike)
    ]
