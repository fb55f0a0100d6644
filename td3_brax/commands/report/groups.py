"""Group runs into experiments, and label each by how it differs from the others on its task."""

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

DISTINGUISHING = tuple(
    name
    for name, field in FIELDS.items()
    if name not in ("preset", "seed", "out", "env", "devices", "report_every")
    and not field.metadata["may_change"]
)
"""Options that distinguish experiments on a task; runs that differ only in other options are trials of one
experiment."""
PAPER_PRESETS = {"paper": "paper", "our-ddpg": "paper", "author": "author"}
"""The paper's presets, each with the preset that holds its TD3."""


@dataclass(frozen=True)
class Group:
    """Trials of one experiment: runs on one task whose options differ only in the seed."""

    env: str
    label: str
    """Unique among the groups of the task."""
    algorithm: str | None
    """Key in :data:`ALGORITHMS`; None for options that are not in the paper's tables."""
    runs: Sequence[Run]
    changed: Mapping[str, Any]
    """Options that differ from the preset's for the task."""


@dataclass(frozen=True)
class _Unlabelled:
    """A group before it has a label."""

    runs: Sequence[Run]
    options: Mapping[str, Any]
    """Options that distinguish it from other groups of the task."""
    changed: Mapping[str, Any]
    preset: str
    platform: str
    algorithm: str | None


def group(runs: Sequence[Run], further: Mapping[str, Any] | None = None) -> list[Group]:
    """Group trials by task and experiment.

    Tasks are in the order found; experiments are in the paper's order, then in the order found.

    Args:
        further: options that runs may have in addition to an algorithm's and still carry its name.
    """
    together: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = (run.config["env"], *_distinguishing(run.config).values())
        together.setdefault(key, []).append(run)
    tasks: dict[str, list[_Unlabelled]] = {}
    for trials in together.values():
        tasks.setdefault(trials[0].config["env"], []).append(_unlabelled(trials, further or {}))
    order = {name: i for i, name in enumerate(ALGORITHMS)}
    groups = []
    for env, experiments in tasks.items():
        experiments.sort(key=lambda one: order.get(one.algorithm or "", len(order)))
        groups += [
            Group(env, label, one.algorithm, one.runs, one.changed)
            for one, label in zip(experiments, _labels(experiments), strict=True)
        ]
    return groups


def _distinguishing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that distinguish a run: its length only if the learning rates decay over it."""
    return {
        "total_env_steps": config["total_env_steps"] if config["lr_decay"] else 0,
        **{name: config[name] for name in DISTINGUISHING},
    }


def _unlabelled(runs: Sequence[Run], further: Mapping[str, Any]) -> _Unlabelled:
    config = runs[0].config
    options, preset = _distinguishing(config), config["preset"]
    sized = {name: config[name] for name in ("preset", "env", "total_env_steps", "num_envs")}

    def changed(platform: str) -> dict[str, Any]:
        """Return the options that differ from the preset's on ``platform``.

        A warm-up length that follows from the run's sizes is not a change.
        """
        base = dataclasses.asdict(resolve({"preset": preset, "env": config["env"]}, platform))
        base |= {"warmup_env_steps": resolve(sized, platform).warmup_env_steps}
        return {name: value for name in DISTINGUISHING if (value := config[name]) != base[name]}

    platform = min(PLATFORMS, key=lambda platform: len(changed(platform)))
    algorithm = None
    if preset in PAPER_PRESETS:
        td3 = resolve({**further, "preset": PAPER_PRESETS[preset], "env": config["env"]}, "cpu")
        algorithm = algorithm_of(config, dataclasses.asdict(td3))
    return _Unlabelled(runs, options, changed(platform), preset, platform, algorithm)


def _labels(groups: Sequence[_Unlabelled]) -> list[str]:
    """Choose a unique label for each group of a task.

    A label is the paper's name of the algorithm, or the preset (if there are several) and the options in
    which the group differs both from its preset and from other groups. Labels that are still equal get more
    options.
    """
    presets = {one.preset for one in groups}
    papers = {PAPER_PRESETS[one.preset] for one in groups if one.algorithm}
    labels = []
    for one in groups:
        same_preset = [other for other in groups if other.preset == one.preset]
        names = [
            name
            for name, value in one.options.items()
            if any(name in other.changed for other in same_preset)
            and any(other.options[name] != value for other in groups)
        ]
        platforms = len({other.platform for other in same_preset}) > 1
        preset = one.preset + f" ({PLATFORMS[one.platform]})" * platforms
        options = _option_text(one, names)
        if one.algorithm:
            paper = f" ({PAPER_PRESETS[one.preset]})" * (len(papers) > 1)
            labels.append(ALGORITHMS[one.algorithm].title + paper)
        else:
            labels.append(
                f"{preset} {options}".strip() if len(presets) > 1 or platforms else options or preset
            )
    for wanted, exact in ((_changed_among, False), (_varied_among, False), (_varied_among, True)):
        for label in [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
            places = [i for i, other in enumerate(labels) if other == label]
            tied = [groups[i] for i in places]
            for i in places:
                more = [name for name in wanted(tied) if exact or f" --{name}=" not in f" {label}"]
                labels[i] = f"{label} {_option_text(groups[i], more, exact)}".strip()
    return labels


def _option_text(one: _Unlabelled, names: Sequence[str], exact: bool = False) -> str:
    """Format options as text; numbers have four digits unless ``exact``."""
    values = {name: one.options[name] for name in names}
    if not exact:
        values = {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in values.items()}
    return " ".join(f"--{name}={show(value)}" for name, value in values.items())


def _varied_among(groups: Sequence[_Unlabelled]) -> list[str]:
    """Return the options in which the groups differ."""
    return [name for name in groups[0].options if len({one.options[name] for one in groups}) > 1]


def _changed_among(groups: Sequence[_Unlabelled]) -> list[str]:
    """Return the options in which the groups differ and which the user set, not only the presets."""
    return [
        name
        for name in _varied_among(groups)
        if name == "total_env_steps" or any(name in one.changed for one in groups)
    ]
