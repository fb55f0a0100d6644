"""Wrap brax-style environments as tasks whose state holds only what the next step reads.

A brax ``State`` on the mjx backend is about 12 KB for Ant. Most of it is results that the next step never
reads. Dead-code elimination on the traced step finds the leaves that it does read. Only those are kept
between steps, so resets, checkpoints and memory traffic stay small.

Tracing MJX takes seconds, so it is done once. Programs then trace the reduced jaxpr.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval

from td3_brax.envs.physics.mjx.patched import precise
from td3_brax.envs.task import Step


class WrappedTask:
    """A brax-style environment as a :class:`td3_brax.envs.task.Task`.

    Args:
        env: an environment with ``reset(key)`` and ``step(state, action)``, whose states have ``obs``,
            ``reward`` and ``done``.
        model: the MuJoCo model that ``env`` simulates.
        positions: function that returns the model's positions [nq] in a state.
        observe: function that returns the observation [O] from a state's ``obs``.
    """

    def __init__(
        self,
        name: str,
        env: Any,
        model: mujoco.MjModel,
        positions: Callable[[Any], jax.Array],
        observe: Callable[[Any], jax.Array] = lambda obs: obs,
    ) -> None:
        self.name = name
        self.model, self.dt = model, float(env.dt)
        self._env, self._positions = env, positions
        self._observe = observe
        self.action_size = int(env.action_size)
        self.action_low = -np.ones(self.action_size, np.float32)
        self.action_high = np.ones(self.action_size, np.float32)

        with precise():
            reset, full = jax.make_jaxpr(env.reset, return_shape=True)(jax.random.key(0))
            action = jax.ShapeDtypeStruct((self.action_size,), jnp.float32)
            step = jax.make_jaxpr(env.step)(full, action)
        # brax's env.observation_size would run a reset operation by operation, which takes most of a minute.
        self.obs_size = int(observe(full.obs).shape[-1])
        self._shapes, self._treedef = jax.tree.flatten(full)
        self.open_loops = "while" in _primitives(step.jaxpr, set())
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(full)]
        wanted = [path.startswith((".obs", ".reward", ".done")) for path in paths]
        self._live = _state_leaves_read(step.jaxpr, wanted)
        self._kept = [a or b for a, b in zip(wanted, self._live, strict=True)]
        self._reset = _restrict(reset, [True], self._kept)
        self._step = _restrict(step, [*self._live, True], self._kept)

    def reset(self, key: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """See :class:`td3_brax.envs.task.Task`."""
        state = self._expand(self._reset(key), self._kept)
        return self._compact(state), self._observe(state.obs)

    def step(self, state: list[jax.Array], action: jax.Array) -> Step:
        """See :class:`td3_brax.envs.task.Task`."""
        return self._as_step(self._expand(self._step(*state, action), self._kept))

    def shown(self, state: list[jax.Array], action: jax.Array) -> tuple[Step, jax.Array]:
        """See :class:`td3_brax.envs.task.Task`."""
        with precise():
            after = self._env.step(self._expand(state, self._live), action)
        return self._as_step(after), self._positions(after)

    def _as_step(self, after: Any) -> Step:
        """Return the :class:`Step` that led to the library's state ``after``."""
        return Step(
            state=self._compact(after),
            obs=self._observe(after.obs),
            reward=after.reward,
            terminated=after.done > 0.5,
        )

    def _compact(self, state: Any) -> list[jax.Array]:
        """Return the leaves of the library's state that the next step reads."""
        return [leaf for leaf, live in zip(jax.tree.leaves(state), self._live, strict=True) if live]

    def _expand(self, leaves: list[jax.Array], which: list[bool]) -> Any:
        """Return the library's state with ``leaves`` where ``which`` is true, and zeros elsewhere."""
        rest = iter(leaves)
        return jax.tree.unflatten(
            self._treedef,
            [
                next(rest) if present else jnp.zeros(leaf.shape, leaf.dtype)
                for leaf, present in zip(self._shapes, which, strict=True)
            ],
        )


def _restrict(whole: ClosedJaxpr, inputs: list[bool], outputs: list[bool]) -> Callable[..., list[jax.Array]]:
    """Return the part of a traced function that computes marked ``outputs`` from marked ``inputs``."""
    jaxpr, _ = partial_eval.dce_jaxpr(whole.jaxpr, outputs, instantiate=inputs)
    part: Callable[..., list[jax.Array]] = jaxpr_as_fun(ClosedJaxpr(jaxpr, whole.consts))
    return part


def _state_leaves_read(step: Any, wanted: list[bool]) -> list[bool]:
    """Mark the state leaves that ``step`` reads, over any number of steps, for the ``wanted`` outputs."""
    live = [False] * len(wanted)
    while True:
        used = [a or b for a, b in zip(wanted, live, strict=True)]
        grown = [a or b for a, b in zip(live, needed_inputs(step, used), strict=False)]
        if grown == live:
            return live
        live = grown


def needed_inputs(jaxpr: Any, used: list[bool]) -> list[bool]:
    """Mark the inputs of ``jaxpr`` that its ``used`` outputs need."""
    return list(partial_eval.dce_jaxpr(jaxpr, used)[1])


def _primitives(jaxpr: Any, seen: set[int]) -> set[str]:
    """Return the names of all primitives in ``jaxpr``. Shared inner functions are visited once."""
    if id(jaxpr) in seen:
        return set()
    seen.add(id(jaxpr))
    names = set()
    for eqn in jaxpr.eqns:
        names.add(eqn.primitive.name)
        for value in eqn.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    names |= _primitives(inner, seen)
    return names
