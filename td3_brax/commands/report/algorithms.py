"""The algorithms of the paper's tables, as options of TD3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Algorithm:
    """What it is called in the paper, and its options beside those of TD3's preset."""

    title: str
    options: Mapping[str, Any]


WITHOUT_DP = {"policy_delay": 1}
WITHOUT_TPS = {"target_noise": 0.0}
WITHOUT_CDQ = {"num_critics": 1}

ALGORITHMS = {
    "td3": Algorithm("TD3", {}),
    "td3-dp": Algorithm("TD3 - DP", WITHOUT_DP),
    "td3-tps": Algorithm("TD3 - TPS", WITHOUT_TPS),
    "td3-cdq": Algorithm("TD3 - CDQ", WITHOUT_CDQ),
    "our-ddpg": Algorithm("our DDPG (AHE)", WITHOUT_DP | WITHOUT_TPS | WITHOUT_CDQ),
    "ddpg": Algorithm(
        "DDPG",
        WITHOUT_DP
        | WITHOUT_TPS
        | WITHOUT_CDQ
        | {
            "actor_lr": 1e-4,
            "tau": 0.001,
            "batch_size": 64,
            "normalize_obs": True,
            "exploration_noise": 0.2,
        },
    ),
}
"""Without delayed policy updates (DP), target policy smoothing (TPS), clipped double Q-learning (CDQ)."""

DDPG_DIFFERS = (
    "DDPG's row has the hyper-parameters of its authors as the paper lists them (supplementary C), except "
    "that exploration noise is Gaussian (the paper's runs: Ornstein-Uhlenbeck), the critic has no weight "
    "decay, and it takes the action in its first layer."
)


def algorithm_of(config: Mapping[str, Any], base: Mapping[str, Any]) -> str | None:
    """The algorithm whose options are what ``config`` has beside its preset's, ``base``; None for others."""
    # How fast, how long and how often are not part of it.
    free = {
        "preset",
        "seed",
        "total_env_steps",
        "out",
        "devices",
        "deterministic",
        "env",
        "num_envs",
        "spread_phases",
        "time_limit",
        "replay_capacity",
        "report_every",
        "eval_every",
        "eval_episodes",
        "wandb",
        "film",
        "checkpoint_every_min",
        "checkpoint_keep",
        "checkpoint_replay",
        "on_nonfinite",
    }
    differs = {name: value for name, value in config.items() if name not in free and value != base[name]}
    return next((name for name, own in ALGORITHMS.items() if own.options == differs), None)
