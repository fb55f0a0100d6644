"""N environments of one task: time limit, auto-reset from fresh states, true last observation, quarantine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.envs.state import EnvState, EpisodeStats, Transition
from td3_brax.envs.task import Task


def select(condition: jax.Array, new: Any, old: Any) -> Any:
    """Return ``new`` where ``condition`` [N] holds, else ``old``, for pytrees with leaves [N, ...]."""

    def leaf(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return jax.tree.map(leaf, new, old)


RUNAWAY = 1e10
"""MuJoCo's limit for positions, velocities and accelerations. Larger values count as diverged physics."""


def all_finite(tree: Any) -> jax.Array:
    """Return [N]: whether all floats of an environment are below :data:`RUNAWAY`, in leaves [N, ...].

    NaN and infinity count as too large. An environment that fails this check is called broken.
    """
    finite = [
        (jnp.abs(leaf) < RUNAWAY).reshape(leaf.shape[0], -1).all(axis=1)
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return jnp.stack(finite).all(axis=0)


class VectorEnv:
    """``num_envs`` environments that step together.

    Each environment keeps one fresh initial state in reserve. The training loop calls :meth:`refill` every
    few vector steps to redraw them. When an episode ends, the environment takes its fresh state and
    continues at once. If a second episode ends before the next refill, the environment waits for that
    refill: until then its rows are marked not valid and counted as ``waited``. Thus no initial state is
    used twice, and a step needs neither a scatter nor a branch.

    If the state, observation or reward of an environment is not finite, or above :data:`RUNAWAY`, the
    environment is quarantined: its row is all zeros and not valid, it takes a fresh state, and it is
    counted. A broken initial state is never used: the environment waits for the next refill instead.
    """

    def __init__(self, task: Task, num_envs: int, time_limit: int, spread_phases: bool = False) -> None:
        self.task = task
        self.num_envs = num_envs
        self.time_limit = time_limit
        self.spread_phases = spread_phases

    def init(self, key: jax.Array) -> EnvState:
        """Return environments that all wait for the first :meth:`refill`, so that reset is compiled once.

        With ``spread_phases``, the time limit of each first episode is drawn from [1, time_limit].
        """
        n = self.num_envs
        task, obs = jax.eval_shape(jax.vmap(self.task.reset), jax.random.split(key, n))
        task, obs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (task, obs))
        limit = jnp.full(n, self.time_limit, jnp.int32)
        if self.spread_phases:
            limit = jax.random.randint(key, (n,), 1, self.time_limit + 1)
        return EnvState(
            task=task,
            obs=obs,
            steps=jnp.zeros(n, jnp.int32),
            limit=limit,
            episode_return=jnp.zeros(n, obs.dtype),
            waiting=jnp.ones(n, bool),
            fresh_task=jax.tree.map(jnp.copy, task),
            fresh_obs=jnp.copy(obs),
            fresh=jnp.zeros(n, bool),
        )

    def refill(self, state: EnvState, key: jax.Array) -> EnvState:
        """Draw a fresh initial state for every environment. Waiting environments start from theirs now."""
        fresh_task, fresh_obs = jax.vmap(self.task.reset)(jax.random.split(key, self.num_envs))
        finite = all_finite((fresh_task, fresh_obs))
        takes = state.waiting & finite
        return replace(
            state,
            task=select(takes, fresh_task, state.task),
            obs=select(takes, fresh_obs, state.obs),
            waiting=state.waiting & ~finite,
            fresh_task=fresh_task,
            fresh_obs=fresh_obs,
            fresh=finite & ~state.waiting,
        )

    def step(self, state: EnvState, action: jax.Array) -> tuple[EnvState, Transition, EpisodeStats]:
        """Take one vector step with actions [N, A] in [-1, 1]."""
        if action.shape != (self.num_envs, self.task.action_size):
            raise ValueError(f"action has shape {action.shape}, not {(self.num_envs, self.task.action_size)}")
        out = jax.vmap(self.task.step)(state.task, action)
        awake = ~state.waiting
        finite = all_finite((out.state, out.obs, out.reward))
        valid = awake & finite
        steps = state.steps + 1
        terminated = valid & out.terminated
        truncated = valid & ~terminated & (steps >= state.limit)
        ended = terminated | truncated
        transition = Transition(
            obs=state.obs,
            action=action,
            reward=out.reward,
            next_obs=out.obs,
            terminated=terminated.astype(out.obs.dtype),
            truncated=truncated.astype(out.obs.dtype),
            valid=valid.astype(out.obs.dtype),
        )
        transition = select(valid, transition, jax.tree.map(jnp.zeros_like, transition))

        episode_return = state.episode_return + transition.reward
        broken = awake & ~finite
        stats = EpisodeStats(
            episodes=ended.sum(dtype=jnp.int32),
            return_sum=jnp.where(ended, episode_return, 0).sum(),
            length_sum=jnp.where(ended, steps, 0).sum(dtype=jnp.int32),
            terminated=terminated.sum(dtype=jnp.int32),
            quarantined=broken.sum(dtype=jnp.int32),
            waited=state.waiting.sum(dtype=jnp.int32),
        )

        begins = ended | broken
        resets = begins | state.waiting
        takes = resets & state.fresh
        return (
            EnvState(
                task=select(takes, state.fresh_task, out.state),
                obs=select(takes, state.fresh_obs, out.obs),
                steps=jnp.where(resets, 0, steps),
                limit=jnp.where(resets, self.time_limit, state.limit),
                episode_return=jnp.where(resets, 0, episode_return),
                waiting=resets & ~takes,
                fresh_task=state.fresh_task,
                fresh_obs=state.fresh_obs,
                fresh=state.fresh & ~takes,
            ),
            transition,
            stats,
        )
