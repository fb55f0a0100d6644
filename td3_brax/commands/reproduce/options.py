"""The options of ``td3-brax reproduce``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from td3_brax.cli import parse_options, train_parser, whole
from td3_brax.commands.report import paper
from td3_brax.commands.report.algorithms import ALGORITHMS
from td3_brax.config import FIELDS
from td3_brax.names import GYMNASIUM_TASKS
from td3_brax.option import ConfigError, nearest
from td3_brax.runs import wandb_run

PRESETS = ("paper", "author")
NUM_ENVS = 25
"""Divides the 5,000 steps between evaluations, and keeps a device busier than the paper's single one."""
TASKS = tuple(name for name in GYMNASIUM_TASKS if paper.family(name))
NOT_OPTIONS = {
    **dict.fromkeys(("env", "seed", "total_env_steps"), "say --envs, --seeds and --steps"),
    "backend": "the tasks are Gymnasium's",
    "checkpoint_replay": "members' checkpoints always hold the replay",
}
"""Of ``td3-brax train``, and why not here."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What this command is to run."""

    envs: Sequence[str]
    algos: Sequence[str]
    seeds: int
    steps: int
    quick: bool = False
    members: int | None = None
    """At once; None for all."""
    preset: str = PRESETS[0]
    out: str = "runs/reproduce"
    wandb: str = "disabled"
    devices: int = 0
    """0 for all."""


FULL = Asked([f"{name}-v4" for name in paper.TASKS], ["td3"], paper.SEEDS, paper.STEPS)
QUICK = Asked(
    ["InvertedDoublePendulum-v4", "HalfCheetah-v4"],
    ["td3", "our-ddpg"],
    seeds=2,
    steps=30_000,
    quick=True,
    out="runs/reproduce-quick",
)


OWN = {
    "out": f"folder of the experiments (default: {FULL.out}; with --quick {QUICK.out})",
    "devices": "devices that share the trials (default: all)",
    "num_envs": f"{FIELDS['num_envs'].metadata['help']} (default: {NUM_ENVS})",
    "spread_phases": f"{FIELDS['spread_phases'].metadata['help']} (default: True; False with --num_envs 1)",
}
"""What the help says of options that the command, not a preset, has a default for."""


def parse(argv: Sequence[str]) -> tuple[Asked, dict[str, Any]]:
    """What is to run, and further options of every run.

    Raises:
        ConfigError: an option that can't be used.
    """
    parser = train_parser("reproduce", __doc__ or "", tuple(NOT_OPTIONS), PRESETS, OWN)
    own = parser.add_argument_group("experiments")
    own.add_argument("--envs", metavar="A,B", help=f"tasks [{', '.join(TASKS)}] ({_of('envs')})")
    own.add_argument("--algos", metavar="A,B", help=f"of {','.join(ALGORITHMS)} ({_of('algos')})")
    own.add_argument("--seeds", metavar="INT", help=f"trials of each ({_of('seeds')})")
    own.add_argument("--steps", metavar="INT", help=f"of each trial ({_of('steps')})")
    own.add_argument("--members", metavar="INT", help="trials of a task and algorithm at once (default: all)")
    own.add_argument("--quick", action="store_const", const=True, help="a reduced version, in minutes")
    explicit, others = parse_options(parser, argv)
    for name, why in NOT_OPTIONS.items():
        if name in explicit:
            raise ConfigError(name, explicit[name], why)
    base = QUICK if others.pop("quick", False) else FULL
    given: dict[str, Any] = {}
    for name, allowed in (("envs", TASKS), ("algos", tuple(ALGORITHMS))):
        if name in others:
            given[name] = list(dict.fromkeys(word.strip() for word in others[name].split(",")))
            for word in given[name]:
                if word not in allowed:
                    why = f"{word} is not one of {', '.join(allowed)}{nearest(word, allowed)}"
                    raise ConfigError(name, others[name], why)
    given |= {n: _number(n, others[n]) for n in ("seeds", "steps", "members") if n in others}
    if mode := wandb_run.mode_from_environment():
        explicit = {"wandb": mode} | explicit
    given |= {n: explicit.pop(n) for n in ("preset", "out", "wandb", "devices") if n in explicit}
    asked = dataclasses.replace(base, **given)
    if asked.preset not in PRESETS:
        why = f"must be one of {', '.join(PRESETS)}{nearest(asked.preset, PRESETS)}"
        raise ConfigError("preset", asked.preset, why)
    return asked, explicit


def _of(name: str) -> str:
    """What the help says of a default, and of that with ``--quick``."""
    full, quick = (
        ",".join(value) if isinstance(value := getattr(asked, name), list) else value
        for asked in (FULL, QUICK)
    )
    return f"default: {full}; with --quick {quick}"


def _number(name: str, text: str) -> int:
    try:
        number = whole(text)
    except Exception:
        raise ConfigError(name, text, "must be a whole number") from None
    if number < 1:
        raise ConfigError(name, text, "must be at least 1")
    return number
