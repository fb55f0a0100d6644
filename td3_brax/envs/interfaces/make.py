"""Make a task for another library's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from td3_brax.cli import coerce
from td3_brax.envs.registry import make_task
from td3_brax.option import ConfigError, nearest
from td3_brax.presets import resolve

KINDS = ("brax", "gymnax", "gymnasium")
MODES = ("next_step", "same_step", "disabled")
NOT_FOR = {
    "brax": ("num_envs", "autoreset", "time_limit"),
    "gymnax": ("num_envs", "autoreset"),
    "gymnasium": ("autoreset",),
}
"""Arguments that a kind refuses; Gymnasium's only without ``num_envs``."""
INSTEAD = {
    "brax": "use brax's wrappers, such as brax.envs.training.wrap(env, episode_length=1000)",
    "gymnax": "batch reset and step with jax.vmap; step begins the next episode itself",
    "gymnasium": "a single environment is reset by its user; give num_envs too",
}


def make(
    name: str,
    kind: str,
    *,
    num_envs: int | None = None,
    autoreset: Any = None,
    time_limit: int | None = None,
    env_args: Mapping[str, Any] | None = None,
    physics: str = "auto",
    backend: str = "mjx",
) -> Any:
    """Make a task of td3-brax as an environment of another library.

    Args:
        name: the task, as in ``--env``.
        kind: ``brax`` for a ``brax.envs.Env``, ``gymnax`` for the methods of a gymnax environment, or
            ``gymnasium`` for a ``gymnasium.vector.VectorEnv`` (without ``num_envs``, a ``gymnasium.Env``).
        num_envs: environments of a ``VectorEnv``. The other kinds are batched by their libraries.
        autoreset: mode of a ``VectorEnv``, one of Gymnasium's ``AutoresetMode``: ``next_step`` (default),
            ``same_step`` or ``disabled``.
        time_limit: steps after which an episode is truncated, by default that of training. For ``brax`` the
            limit is an argument of brax's ``EpisodeWrapper``.
        env_args: arguments of the task.
        physics: physics of Gymnasium's tasks and of brax's on ``mjx``.
        backend: physics backend of a brax task.
    Raises:
        ConfigError: a name or value that is not allowed.
    """
    if kind not in KINDS:
        raise ConfigError(
            "kind", kind, f"is not known{nearest(kind, KINDS)}; must be one of {', '.join(KINDS)}"
        )
    mode = str(getattr(autoreset, "name", autoreset or MODES[0])).lower()  # of Gymnasium's class, or a text
    if mode not in MODES:
        allowed = f"is not known{nearest(mode, MODES)}; must be one of {', '.join(MODES)}"
        raise ConfigError("autoreset", autoreset, allowed)
    given = {"num_envs": num_envs, "autoreset": autoreset, "time_limit": time_limit}
    for option in NOT_FOR[kind] if kind != "gymnasium" or num_envs is None else ():
        if given[option] is not None:
            raise ConfigError(option, given[option], f"is not for kind={kind}: {INSTEAD[kind]}")
    options: dict[str, Any] = {"env": name, "physics": physics, "backend": backend}
    optional = {"num_envs": num_envs, "time_limit": time_limit, "env_args": env_args}
    options |= {option: value for option, value in optional.items() if value is not None}
    config = resolve({option: coerce(option, value) for option, value in options.items()}, "cpu")
    task = make_task(config)
    if kind == "brax":
        from td3_brax.envs.interfaces.brax import BraxEnv

        return BraxEnv(task, backend)
    if kind == "gymnax":
        from td3_brax.envs.interfaces.gymnax import GymnaxEnv

        return GymnaxEnv(task, config.time_limit)
    from td3_brax.envs.interfaces import gymnasium

    if num_envs is None:
        return gymnasium.Env(task, config.time_limit)
    return gymnasium.VectorEnv(
        task, config.num_envs, config.time_limit, gymnasium.AutoresetMode[mode.upper()]
    )
