"""A task by its name."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from td3_brax.config import BRAX_TASKS, GYMNASIUM_TASKS, PLAYGROUND, Config, ConfigError, nearest
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
    if config.env not in BRAX_TASKS:
        return _own(config.env, args)
    from td3_brax.envs.brax import BraxTask

    return BraxTask(config.env, config.backend)


def _own(name: str, args: Mapping[str, Any]) -> Task:
    """What ``MODULE:NAME`` makes of ``args``; modules of the working directory are found too."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    module, _, attribute = name.partition(":")
    try:
        there = vars(importlib.import_module(module))
    except ImportError as error:
        raise ConfigError("env", name, f"can't be imported ({error})") from None
    if attribute not in there:
        raise ConfigError("env", name, f"{module} has no {attribute}{nearest(attribute, there)}")
    make = there[attribute]
    try:
        inspect.signature(make).bind(**args)
    except TypeError as error:
        raise ConfigError("env_args", json.dumps(args), f"{name}: {error}") from None
    task: Task = make(**args)
    asked = {*Task.__annotations__, "reset", "step", "shown"}
    if lacking := sorted(part for part in asked if not hasattr(task, part)):
        raise ConfigError(
            "env", name, f"lacks {', '.join(lacking)} (td3_brax/envs/task.py has what a task is)"
        )
    return task
