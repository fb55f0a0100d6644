"""A task by its name."""

from __future__ import annotations

import json

from td3_brax.config import GYMNASIUM_TASKS, PLAYGROUND, Config
from td3_brax.envs.task import Task


def make_task(config: Config) -> Task:
    """The task that ``config`` names; only its own kind is imported.

    Raises:
        ConfigError: arguments that it does not take, or a kind that is not installed.
    """
    args = json.loads(config.env_args or "{}")
    if config.env in GYMNASIUM_TASKS:
        from td3_brax.envs import gymnasium

        return gymnasium.make(config.env, args)
    if config.env.startswith(PLAYGROUND):
        from td3_brax.envs.playground import PlaygroundTask

        return PlaygroundTask(config.env.removeprefix(PLAYGROUND), args)
    from td3_brax.envs.brax import BraxTask

    return BraxTask(config.env, config.backend)
