"""Greedy returns, on the device."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from td3_brax.envs.task import Task
from td3_brax.envs.vector import all_finite, select


def greedy_returns(
    task: Task,
    policy: Callable[[jax.Array], jax.Array],
    keys: jax.Array,
    time_limit: int,
) -> tuple[jax.Array, jax.Array]:
    """Play whole episodes without noise, each from its own newly drawn initial state.

    An episode ends when the task terminates it, at the time limit, or where physics break (what was
    earned before that counts). The loop ends with the last episode.

    Args:
        keys: [episodes]
        policy: observations [episodes, O] -> actions [episodes, A] in [-1, 1].
    Returns:
        returns [episodes] float32 and lengths [episodes] int32.
    """
    episodes = keys.shape[0]
    state, obs = jax.vmap(task.reset)(keys)
    start = (
        jnp.int32(0),
        state,
        obs,
        jnp.ones(episodes, bool),
        jnp.zeros(episodes),
        jnp.zeros(episodes, int),
    )

    def going(carry: tuple) -> jax.Array:
        t, _, _, alive, _, _ = carry
        return (t < time_limit) & alive.any()

    def step(carry: tuple) -> tuple:
        t, state, obs, alive, returns, lengths = carry
        out = jax.vmap(task.step)(state, policy(obs))
        finite = all_finite((out.state, out.obs, out.reward))
        counts = alive & finite
        returns = returns + jnp.where(counts, out.reward, 0)
        state, obs = select(counts, (out.state, out.obs), (state, obs))
        return t + 1, state, obs, counts & ~out.terminated, returns, lengths + counts

    *_, returns, lengths = jax.lax.while_loop(going, step, start)
    return returns, lengths
