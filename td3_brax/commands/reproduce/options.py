"""The options of ``td3-brax reproduce``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from td3_brax.cli import parse_options, train_parser, whole_number
from td3_brax.commands.report import paper
from td3_brax.commands.report.algorithms import ALGORITHMS
from td3_brax.config import FIELDS
from td3_brax.names import GYMNASIUM_TASKS
from td3_brax.option import ConfigError, nearest
from td3_brax.runs import wandb_run

PRESETS = ("paper", "author")
NUM_ENVS = 25
"""Default number of environments: it divides the 5,000 steps between evaluations, and keeps a device busier
than the paper's single environment."""
TASKS = tuple(name for name in GYMNASIUM_TASKS if paper.family(name))
NOT_OPTIONS = {
    **dict.fromkeys(("env", "seed", "total_env_steps"), "use --envs, --seeds and --steps instead"),
    "backend": "can't be set: the tasks are Gymnasium's, not brax's",
    "checkpoint_replay": "can't be set: members' checkpoints always hold the replay",
    "init_from": "can't be set: the paper's runs begin with new networks",
}
"""Options of ``td3-brax train`` that this command refuses, with the reason."""


@dataclasses.dataclass(frozen=True)
class Request:
    """The experiments that the user asked for."""

    envs: Sequence[str]
    algos: Sequence[str]
    seeds: int
    steps: int
    quick: bool = False
    members: int | None = None
    """Trials of a task and algorithm at once; None for all."""
    preset: str = PRESETS[0]
    out: str = "runs/reproduce"
    wandb: str = "disabled"
    devices: int = 0
    """Devices that share the trials; 0 for all."""


FULL = Request([f"{name}-v4" for name in paper.TASKS], ["td3"], paper.SEEDS, paper.STEPS)
QUICK = Request(
    ["InvertedDoublePendulum-v4", "HalfCheetah-v4"],
    ["td3", "our-ddpg"],
    seeds=2,
    steps=30_000,
    quick=True,
    out="runs/reproduce-quick",
)


HELP = {
    "out": f"folder of the experiments (default: {FULL.out}; with --quick {QUICK.out})",
    "devices": "devices that share the trials (default: all)",
    "num_envs": f"{FIELDS['num_envs'].metadata['help']} (default: {NUM_ENVS})",
    "spread_phases": f"{FIELDS['spread_phases'].metadata['help']} (default: True; False with --num_envs 1)",
}
"""Help texts of options whose default is set by this command, not by a preset."""


def parse(argv: Sequence[str]) -> tuple[Request, dict[str, Any]]:
    """Parse the command line into a request and further options that apply to every run.

    Raises:
        ConfigError: an option can't be used.
    """
    parser = train_parser("reproduce", __doc__ or "", tuple(NOT_OPTIONS), PRESETS, HELP)
    experiments = parser.add_argument_group("experiments")
    experiments.add_argument(
        "--envs", metavar="A,B", help=f"tasks [{', '.join(TASKS)}] ({_defaults('envs')})"
    )
    experiments.add_argument(
        "--algos", metavar="A,B", help=f"algorithms [{', '.join(ALGORITHMS)}] ({_defaults('algos')})"
    )
    experiments.add_argument(
        "--seeds", metavar="INT", help=f"trials of each task and algorithm ({_defaults('seeds')})"
    )
    experiments.add_argument(
        "--steps", metavar="INT", help=f"environment steps of each trial ({_defaults('steps')})"
    )
    experiments.add_argument(
        "--members", metavar="INT", help="trials of a task and algorithm at once (default: all)"
    )
    experiments.add_argument(
        "--quick", action="store_const", const=True, help="run a reduced version that takes minutes"
    )
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
    request = dataclasses.replace(base, **given)
    if request.preset not in PRESETS:
        why = f"must be one of {', '.join(PRESETS)}{nearest(request.preset, PRESETS)}"
        raise ConfigError("preset", request.preset, why)
    return request, explicit


def _defaults(name: str) -> str:
    """Format an option's default, and its default with ``--quick``, for the help."""
    full, quick = (
        ",".join(value) if isinstance(value := getattr(request, name), list) else value
        for request in (FULL, QUICK)
    )
    return f"default: {full}; with --quick {quick}"


def _number(name: str, text: str) -> int:
    """Parse a whole number of at least 1; raise :class:`ConfigError` if it is not one."""
    try:
        number = whole_number(text)
    except Exception:
        raise ConfigError(name, text, "must be a whole number") from None
    if number < 1:
        raise ConfigError(name, text, "must be at least 1")
    return number
