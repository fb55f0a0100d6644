"""Tasks of libraries in brax's manner, carrying only what their next step reads.

A brax ``State`` on the mjx backend is about 12 KB for Ant, most of it results that the next step never
looks at. Which leaves it does read follows from the traced step by dead-code elimination; only those
are kept between steps, so that resets, checkpoints and memory traffic stay small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.interpreters import partial_eval

from td3_brax.envs.mjx import precise
from td3_brax.envs.task import Step


class WrappedTask:
    """``env``, with ``reset(key)`` and ``step(state, action)`` of states that hold ``obs``, ``reward`` and
    ``done``, as a :class:`td3_brax.envs.task.Task`.

    Args:
        model: that it simulates.
        positions: of a state, that model's [nq].
        observe: which array of the state's ``obs`` is the observation [O].
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

        full = jax.eval_shape(env.reset, jax.random.key(0))
        # Not env.observation_size, which in brax runs a reset operation by operation: most of a minute.
        self.obs_size = int(observe(full.obs).shape[-1])
        leaves, self._treedef = jax.tree.flatten(full)
        action = jax.ShapeDtypeStruct((self.action_size,), jnp.float32)
        step = jax.make_jaxpr(env.step)(full, action).jaxpr
        self.open_loops = "while" in _primitives(step, set())
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(full)]
        asked = [path.startswith((".obs", ".reward", ".done")) for path in paths]
        self._shapes = leaves
        self._live = _live_inputs(step, asked)

    def reset(self, key: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """See :class:`td3_brax.envs.task.Task`."""
        with precise():
            state = self._env.reset(key)
        return self._compact(state), self._observe(state.obs)

    def step(self, state: list[jax.Array], action: jax.Array) -> Step:
        """See :class:`td3_brax.envs.task.Task`."""
        return self._step(state, action)[0]

    def shown(self, state: list[jax.Array], action: jax.Array) -> tuple[Step, jax.Array]:
        """See :class:`td3_brax.envs.task.Task`."""
        out, after = self._step(state, action)
        return out, self._positions(after)

    def _step(self, state: list[jax.Array], action: jax.Array) -> tuple[Step, Any]:
        """A step, and the library's full state after it."""
        with precise():
            after = self._env.step(self._expand(state), action)
        out = Step(
            state=self._compact(after),
            obs=self._observe(after.obs),
            reward=after.reward,
            terminated=after.done > 0.5,
        )
        return out, after

    def _compact(self, state: Any) -> list[jax.Array]:
        return [leaf for leaf, live in zip(jax.tree.leaves(state), self._live, strict=True) if live]

    def _expand(self, kept: list[jax.Array]) -> Any:
        """The library's full state; leaves that the step does not read are zeros."""
        rest = iter(kept)
        return jax.tree.unflatten(
            self._treedef,
            [
                next(rest) if live else jnp.zeros(leaf.shape, leaf.dtype)
                for leaf, live in zip(self._shapes, self._live, strict=True)
            ],
        )


def _live_inputs(step: Any, asked: list[bool]) -> list[bool]:
    """Which state leaves ``step`` reads, over any number of steps, for the outputs ``asked`` for."""
    live = [False] * len(asked)
    while True:
        used = [a or b for a, b in zip(asked, live, strict=True)]
        grown = [a or b for a, b in zip(live, reads(step, used), strict=False)]
        if grown == live:
            return live
        live = grown


def reads(jaxpr: Any, used: list[bool]) -> list[bool]:
    """Which inputs the ``used`` outputs of ``jaxpr`` need."""
    return list(partial_eval.dce_jaxpr(jaxpr, used)[1])


def _primitives(jaxpr: Any, seen: set[int]) -> set[str]:
    """Names of all primitives in ``jaxpr``; inner functions that are shared are visited once."""
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
