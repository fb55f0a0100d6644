"""Check that a user's task has the fields and methods of :class:`td3_brax.envs.task.Task`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.task import Step, Task
from td3_brax.option import ConfigError

METHODS = ("reset", "step", "shown")


class _InvalidTaskError(Exception):
    """The text names a field or method, what was found, and what was expected."""


def check(name: str, task: Any) -> None:
    """Check each field of ``task``, and trace each of its methods. ``name`` is the value of ``--env``.

    Raises:
        ConfigError: a field or method is missing or differs from :class:`td3_brax.envs.task.Task`.
    """
    try:
        if missing := sorted(part for part in {*Task.__annotations__, *METHODS} if not hasattr(task, part)):
            raise _InvalidTaskError(f"has no {', '.join(missing)}")
        _check_fields(task)
        _check_methods(task)
    except _InvalidTaskError as refusal:
        raise ConfigError(
            "env", name, f"{refusal} (the interface of a task is in td3_brax/envs/task.py)"
        ) from None


def _check_fields(task: Any) -> None:
    whole, number = (int, np.integer), (int, float, np.number)
    for field, kind, wanted in (
        ("name", str, "text"),
        ("obs_size", whole, "a whole number above 0"),
        ("action_size", whole, "a whole number above 0"),
        ("open_loops", (bool, np.bool_), "True or False"),
        ("model", mujoco.MjModel, "a mujoco.MjModel"),
        ("dt", number, "seconds above 0"),
    ):
        value = getattr(task, field)
        fits = isinstance(value, kind)
        if kind in (whole, number):
            fits = fits and not isinstance(value, bool) and 0 < value < math.inf
        if not fits:
            raise _InvalidTaskError(f"{field} is {_describe(value)}, must be {wanted}")
    low, high = _limits(task, "action_low"), _limits(task, "action_high")
    if not (low < high).all():
        raise _InvalidTaskError(f"action_low is {low.tolist()}, must be below action_high, {high.tolist()}")


def _limits(task: Any, field: str) -> np.ndarray:
    """Return the limits in ``field`` as they will be saved: float32 [A]."""
    given, size = getattr(task, field), int(task.action_size)
    try:
        with np.errstate(over="ignore"):
            limits = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        limits = np.empty(0, np.float32)
    if limits.shape != (size,) or not np.isfinite(limits).all():
        wanted = f"finite numbers of shape [{size}] (action_size)"
        raise _InvalidTaskError(f"{field} is {_describe(given)}, must be {wanted}")
    return limits


def _check_methods(task: Any) -> None:
    drawn = jax.eval_shape(task.reset, jax.random.key(0))
    state, obs = _check_pair("reset", drawn, "a state and an observation")
    _check_array("reset's observation", obs, jnp.float32, (task.obs_size,))
    action = jax.ShapeDtypeStruct((task.action_size,), jnp.float32)
    _check_step("step", jax.eval_shape(task.step, state, action), task, state)
    shown = jax.eval_shape(task.shown, state, action)
    out, positions = _check_pair("shown", shown, "a Step and the model's positions")
    _check_step("shown", out, task, state)
    _check_array("shown's positions", positions, jnp.float32, (task.model.nq,))


def _check_pair(method: str, given: Any, wanted: str) -> Any:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise _InvalidTaskError(f"{method} returns {_describe(given)}, must return {wanted}")
    return given


def _check_step(method: str, out: Any, task: Any, state: Any) -> None:
    """Check that ``out`` is a :class:`Step` whose state has the structure of ``state``, from a reset."""
    if missing := [f.name for f in dataclasses.fields(Step) if not hasattr(out, f.name)]:
        raise _InvalidTaskError(
            f"{method} returns {_describe(out)} without {', '.join(missing)}, must return a Step"
        )
    _check_array(f"{method}'s obs", out.obs, jnp.float32, (task.obs_size,))
    _check_array(f"{method}'s reward", out.reward, jnp.float32, ())
    _check_array(f"{method}'s terminated", out.terminated, jnp.bool_, ())
    before: Any = jax.tree.structure(state)
    if before != jax.tree.structure(out.state):
        raise _InvalidTaskError(
            f"{method}'s state is {_describe(out.state)}, must be like reset's, {_describe(state)}"
        )
    both = map(jax.tree_util.tree_leaves_with_path, (state, out.state))
    for (path, first), (_, then) in zip(*both, strict=True):
        _check_array(f"{method}'s state{jax.tree_util.keystr(path)}", then, first.dtype, first.shape)


def _check_array(what: str, given: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    wanted = jax.ShapeDtypeStruct(shape, dtype)
    if (getattr(given, "shape", None), getattr(given, "dtype", None)) != (shape, wanted.dtype):
        raise _InvalidTaskError(f"{what} is {_describe(given)}, must be {_describe(wanted)}")


def _describe(value: Any) -> str:
    """Describe a value in few words: dtype and shape of an array, contents of a container, or the value."""
    if isinstance(value, jax.ShapeDtypeStruct | jax.Array | np.ndarray):
        finite = "" if isinstance(value, jax.ShapeDtypeStruct) or np.isfinite(value).all() else ", not finite"
        return f"{value.dtype} {list(value.shape)}{finite}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list) and not all(isinstance(x, int | float) for x in value):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str | int | float | tuple | list | np.generic | None):
        return repr(value)
    return f"a {type(value).__name__}"
