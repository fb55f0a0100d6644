"""Presets: default values of the options, by task and platform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from td3_brax.config import FIELDS, Config
from td3_brax.names import PRESETS
from td3_brax.option import ConfigError, nearest

PLATFORMS = {"cpu": "CPU", "amx": "CPU with AMX", "gpu": "GPU"}
"""Platforms for which presets differ. AMX multiplies bfloat16 about five times as fast as float32."""
MIN_WARMUP, WARMUP_PER_ENV = 16_384, 128
"""Random steps at the start of a `quick` run: in total at least, and of each environment (fewer in short
runs). The first updates must see how episodes end. Otherwise Humanoid's actor moves to the bounds of its
actions and never leaves them."""
CPU_DEVICES = 2
"""Devices of `quick` on a CPU. JAX can turn the cores of a CPU into any number of devices."""


def _family(env: str) -> str:
    """Return the name of a task without its version, such as ``halfcheetah`` for ``HalfCheetah-v5``."""
    return env.rsplit("-v", 1)[0].lower().replace("_", "")


def _paper(env: str, platform: str) -> dict[str, Any]:
    """Return the settings of the paper (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477).

    They are from section 6.1 and supplementary C. The paper's noise and its critics' actions are in the
    tasks' units. Of its tasks, only InvertedPendulum has actions beyond [-1, 1].
    """
    bound = 3.0 if env.startswith("InvertedPendulum-v") else 1.0
    return {
        "critic_action_scale": bound,
        "exploration_noise": 0.1 / bound,
        "target_noise": 0.2 / bound,
        "target_noise_clip": 0.5 / bound,
        "num_envs": 1,
        "total_env_steps": 1_000_000,
        "updates_per_env_step": 1.0,
        "batch_size": 100,
        "replay_capacity": 1_000_000,
        "warmup_env_steps": 10_000 if _family(env) in ("ant", "halfcheetah") else 1000,
        "update_during_warmup": True,
        "hidden_sizes": (400, 300),
    }


def _author(env: str, platform: str) -> dict[str, Any]:
    """Return the settings of the first author's later code, whose noise is relative to the action range."""
    short = _family(env) in ("invertedpendulum", "inverteddoublependulum", "reacher")
    return _paper(env, platform) | {
        "exploration_noise": 0.1,
        "target_noise": 0.2,
        "target_noise_clip": 0.5,
        "batch_size": 256,
        "hidden_sizes": (256, 256),
        "actor_lr": 3e-4,
        "critic_lr": 3e-4,
        "warmup_env_steps": 1000 if short else 25_000,
        "update_during_warmup": False,
    }


def _our_ddpg(env: str, platform: str) -> dict[str, Any]:
    """Return the settings of the paper's "our DDPG": TD3's architecture without TD3's three changes."""
    return _paper(env, platform) | {"num_critics": 1, "policy_delay": 1, "target_noise": 0.0}


def _quick(env: str, platform: str) -> dict[str, Any]:
    """Return the settings that train an Ant to walk in the least time on this platform."""
    shared = {
        "collect_time_limit": 250,
        "spread_phases": True,
        "normalize_obs": True,
        "hidden_sizes": (256, 256),
        "num_atoms": 51,
        "lr_decay": 0.9,
        "exploration_noise": 0.0,
        "exploration_noise_spread": 0.3,
        "update_during_warmup": False,
        "eval_tau": 0.001,
        "tau": 0.04,
        "actor_lr": 1e-3,
        "critic_lr": 2e-3,
        "policy_delay": 4,
    }
    if platform == "gpu":
        return shared | {
            "num_envs": 4096,
            "updates_per_env_step": 16 / 4096,
            "batch_size": 512,
            "replay_capacity": 4_194_304,
            "total_env_steps": 32_000_000,
            "report_every": 524_288,
            "eval_every": 2_097_152,
            "eval_episodes": 128,
        }
    return shared | {
        "devices": CPU_DEVICES,
        "compute_dtype": "bfloat16" if platform == "amx" else "float32",
        "num_envs": 1024,
        "updates_per_env_step": 16 / 1024,
        "batch_size": 256,
        "replay_capacity": 1_000_000,
        "total_env_steps": 8_000_000,
        "report_every": 65_536,
        "eval_every": 262_144,
        "eval_episodes": 32,
    }


PRESET_VALUES = dict(zip(PRESETS, (_quick, _paper, _author, _our_ddpg), strict=True))


def resolve(explicit: Mapping[str, Any], platform: str) -> Config:
    """Return the options of a run: those in ``explicit``, else the preset's for this task and platform.

    Args:
        explicit: options by name; ``env`` and ``preset`` among them choose the task and the preset.
        platform: one of ``PLATFORMS``.
    Raises:
        ConfigError: an unknown option, or a value that is not allowed.
    """
    for name, value in explicit.items():
        if name not in FIELDS:
            raise ConfigError(name, value, f"unknown option{nearest(name, FIELDS)}")
    preset = str(explicit.get("preset", FIELDS["preset"].default))
    env = str(explicit.get("env", FIELDS["env"].default))
    base = PRESET_VALUES[preset](env, platform) if preset in PRESETS else {}
    if env.startswith("Reacher-v"):
        base |= {"time_limit": 50}
    values = base | dict(explicit)
    if "devices" in base and "devices" not in explicit:  # lower the preset's number until it divides
        asked = [values["num_envs"], values["batch_size"]]
        fitting = (d for d in range(base["devices"], 1, -1) if not any(n % d for n in asked))
        values["devices"] = next(fitting, 1)
    if preset == "quick" and "warmup_env_steps" not in explicit:
        most = min(WARMUP_PER_ENV * values["num_envs"], values["total_env_steps"] // 8)
        values["warmup_env_steps"] = int(max(MIN_WARMUP, most))
    return Config(**values)
