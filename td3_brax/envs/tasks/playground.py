"""MuJoCo Playground's tasks."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import jax

from td3_brax.envs.suppress import suppress_output
from td3_brax.envs.tasks.wrapper import WrappedTask
from td3_brax.names import PLAYGROUND
from td3_brax.option import ConfigError, nearest


class PlaygroundTask(WrappedTask):
    """A task of ``mujoco_playground``. It uses MJX's JAX implementation unless ``args`` select another.

    If the task has several named observations, the policy gets the robot's own, ``state``.

    Args:
        name: a name registered in Playground.
        args: overrides of the task's configuration, such as ``{"impl": "warp"}``.
    Raises:
        ConfigError: Playground is not installed, has no such task or override, or cannot download a model.
    """

    def __init__(self, name: str, args: Mapping[str, Any]) -> None:
        with suppress_output():
            try:
                from mujoco_playground import registry
            except ImportError as error:
                raise ConfigError(
                    "env",
                    PLAYGROUND + name,
                    f"needs MuJoCo Playground: pip install 'td3-brax[playground]' ({error})",
                ) from None
            if name not in registry.ALL_ENVS:
                named = [PLAYGROUND + other for other in registry.ALL_ENVS]
                raise ConfigError(
                    "env",
                    PLAYGROUND + name,
                    f"Playground has no such task{nearest(PLAYGROUND + name, named)}; {', '.join(named)}",
                )
            known = registry.get_default_config(name)
            for key in args:
                if key not in known:
                    raise ConfigError(
                        "env_args", key, f"{name} takes {', '.join(known)}{nearest(key, known)}"
                    )
            try:
                env = registry.load(name, config_overrides={"impl": "jax"} | dict(args))
            except (subprocess.CalledProcessError, OSError) as error:
                raise ConfigError(
                    "env",
                    PLAYGROUND + name,
                    "Playground could not download this robot's model by git from github.com/google-deepmind/"
                    f"mujoco_menagerie: {error}",
                ) from None
        super().__init__(
            PLAYGROUND + name, env, env.mj_model, lambda state: state.data.qpos, robot_observation
        )


def robot_observation(obs: jax.Array | Mapping[str, jax.Array]) -> jax.Array:
    """Return the observation [O]: ``obs`` itself, or ``state`` if observations are named."""
    return obs["state"] if isinstance(obs, Mapping) else obs
