"""Make a task from its name."""

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
from td3_brax.user_code import import_object


def make_task(config: Config) -> Task:
    """Return the task that ``config`` names. Only the library that the task needs is imported.

    Raises:
        ConfigError: the task does not take these arguments, its library is not installed, or the object
            is not a task.
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
    """Call the user's ``MODULE:NAME`` with ``args``, and check that it returns a task."""
    make = import_object("env", name)
    if "mujoco.mjx" in sys.modules:  # the module may have imported MJX without our patches
        importlib.import_module("td3_brax.envs.physics.mjx.patched")
    try:
        inspect.signature(make).bind(**args)
    except TypeError as error:
        raise ConfigError("env_args", json.dumps(args), f"{name}: {error}") from None
    task: Task = make(**args)
    check(name, task)
    return task
