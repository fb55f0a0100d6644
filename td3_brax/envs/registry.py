"""A task by its name."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

from td3_brax.config import Config
from td3_brax.envs.check import check
from td3_brax.envs.task import Task
from td3_brax.names import BRAX_TASKS, GYMNASIUM_TASKS, PLAYGROUND
from td3_brax.option import ConfigError
from td3_brax.user_code import imported


def make_task(config: Config) -> Task:
    """The task that ``config`` names; only its own kind is imported.

    Raises:
        ConfigError: arguments that it does not take, a kind that is not installed, or what is no task.
    """
    args = json.loads(config.env_args or "{}")
    if config.env in GYMNASIUM_TASKS:
        from td3_brax.envs.tasks import gymnasium

        return gymnasium.make(config.env, args, config.physics)
    if config.env.startswith(PLAYGROUND):
        from td3_brax.envs.tasks.playground import PlaygroundTask

        return PlaygroundTask(config.env.removeprefix(PLAYGROUND), args)
    if config.env not in BRAX_TASKS:
        return _user_task(config.env, args)
    from td3_brax.envs.tasks.brax import BraxTask

    return BraxTask(config.env, config.backend, config.physics)


def _user_task(name: str, args: Mapping[str, Any]) -> Task:
    """What ``MODULE:NAME`` makes of ``args``."""
    make = imported("env", name)
    if "mujoco.mjx" in sys.modules:  # what it imported itself is to be as ours is, too
        importlib.import_module("td3_brax.envs.physics.mjx.patched")
    try:
        inspect.signature(make).bind(**args)
    except TypeError as error:
        raise ConfigError("env_args", json.dumps(args), f"{name}: {error}") from None
    task: Task = make(**args)
    check(name, task)
    return task
