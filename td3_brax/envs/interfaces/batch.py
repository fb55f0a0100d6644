"""The device's side of the Gymnasium interface: N environments that step and start anew in two programs."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.envs.interfaces import guarded
from td3_brax.envs.task import Task

MIN_CHUNK, CHUNKS = 32, 16
"""Environments that start anew together: a sixteenth of all, and at least 32."""


@flax.struct.dataclass
class BatchState:
    """N environments."""

    task: Any
    """States of the task, leaves [N, ...]."""
    obs: jax.Array
    """[N, O] Observations of these states."""
    steps: jax.Array
    """[N] int32. Environment steps taken in the current episode."""


@flax.struct.dataclass
class BatchStep:
    """The result of one step of N environments. See :class:`td3_brax.envs.interfaces.guarded.Outcome`."""

    obs: Any
    """[N, O]"""
    reward: Any
    """[N]"""
    terminated: Any
    """[N] bool."""
    truncated: Any
    """[N] bool. Whether the time limit is reached, or the physics broke."""
    broken: Any
    """[N] bool."""


class Batch:
    """Hold ``num_envs`` environments of a task on the device, with a time limit. Methods take NumPy arrays.

    Episode e of an environment with seed s always begins in the same state, whatever the other environments
    do.
    """

    def __init__(self, task: Task, num_envs: int, time_limit: int) -> None:
        self.task, self.num_envs, self.time_limit = task, num_envs, time_limit
        self.chunk = min(num_envs, max(MIN_CHUNK, num_envs // CHUNKS))
        self._advance = jax.jit(self._advance_all, donate_argnums=0)
        self._begin = jax.jit(self._begin_chunk, donate_argnums=0)
        drawn = jax.eval_shape(jax.vmap(task.reset), jax.random.split(jax.random.key(0), num_envs))
        state, obs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), drawn)
        self._state = BatchState(task=state, obs=obs, steps=jnp.zeros(num_envs, jnp.int32))

    def step(self, actions: np.ndarray, restart: np.ndarray) -> BatchStep:
        """Step all environments with actions [N, A] in the task's units.

        Args:
            actions: [N, A]
            restart: bool [N]. Environments that :meth:`begin` will start anew: this step does not count.
        """
        self._state, out = self._advance(self._state, actions, restart)
        got: BatchStep = jax.tree.map(np.array, jax.device_get(out))  # a copy that the caller may write to
        return got

    def begin(self, which: np.ndarray, seeds: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """Begin an episode in each of the environments ``which`` [n], and return their observations [n, O].

        Args:
            which: indices of environments, each at most once.
            seeds: seed of each of them, uint32 [n, 2].
            episodes: number of the episode of each of them, uint32 [n].
        """
        found = []
        for first in range(0, len(which), self.chunk):
            part = slice(first, first + self.chunk)
            missing = self.chunk - len(which[part])
            index = np.pad(which[part], (0, missing), constant_values=self.num_envs)  # writes nothing
            seeds_, episodes_ = (
                np.pad(seeds[part], ((0, missing), (0, 0))),
                np.pad(episodes[part], (0, missing)),
            )
            self._state, obs = self._begin(self._state, index.astype(np.int32), seeds_, episodes_)
            found.append((obs, self.chunk - missing))
        return np.concatenate([np.asarray(obs)[:count] for obs, count in found])  # waits for all at once

    def _begin_chunk(
        self, state: BatchState, index: jax.Array, seeds: jax.Array, episodes: jax.Array
    ) -> tuple[BatchState, jax.Array]:
        def one(seed: jax.Array, episode: jax.Array) -> Any:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed[0]), seed[1]), episode)
            return guarded.reset(self.task, key)

        task, obs = jax.vmap(one)(seeds, episodes)
        fresh = BatchState(task=task, obs=obs, steps=jnp.zeros(self.chunk, jnp.int32))
        return jax.tree.map(lambda old, new: old.at[index].set(new, mode="drop"), state, fresh), obs

    def _advance_all(
        self, state: BatchState, actions: jax.Array, restart: jax.Array
    ) -> tuple[BatchState, BatchStep]:
        low, high = jnp.asarray(self.task.action_low), jnp.asarray(self.task.action_high)
        inside = 2 * (actions - low) / (high - low) - 1

        def one(task: Any, obs: jax.Array, action: jax.Array) -> guarded.Outcome:
            return guarded.step(self.task, task, obs, action)

        out = jax.vmap(one)(state.task, state.obs, inside)
        after = BatchState(task=out.task, obs=out.obs, steps=state.steps + 1)
        moved = ~restart
        return after, BatchStep(
            obs=after.obs,
            reward=jnp.where(moved, out.reward, 0),
            terminated=moved & out.terminated,
            truncated=moved & (out.broken | (after.steps >= self.time_limit)),
            broken=moved & out.broken,
        )
