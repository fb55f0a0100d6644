"""The algorithms in the paper's tables, expressed as options of TD3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Algorithm:
    """An algorithm: its name in the paper, and the options that it changes from TD3's preset."""

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
"""Ablations leave out delayed policy updates (DP), target policy smoothing (TPS) or clipped double Q-learning
(CDQ)."""

DDPG_DIFFERS = (
    "DDPG uses its authors' hyper-parameters as the paper lists them (supplementary C), with three "
    "exceptions: exploration noise is Gaussian (the paper used Ornstein-Uhlenbeck noise), the critic has no "
    "weight decay, and the critic takes the action in its first layer."
)


def algorithm_of(config: Mapping[str, Any], base: Mapping[str, Any]) -> str | None:
    """Return the key of the algorithm that ``config`` runs; None if it is not one of the paper's.

    Args:
        base: options of the preset; those of ``config`` may differ from it only by the algorithm's options.
    """
    # These options set how fast, how long and how often, and are not part of an algorithm.
    ignored = {
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
        "tensorboard",
        "film",
        "checkpoint_every_min",
        "checkpoint_keep",
        "checkpoint_replay",
        "on_nonfinite",
    }
    differs = {name: value for name, value in config.items() if name not in ignored and value != base[name]}
    return next((name for name, algorithm in ALGORITHMS.items() if algorithm.options == differs), None)
