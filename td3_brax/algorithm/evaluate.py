"""Greedy evaluation on the device: returns of whole episodes, and the bias of the critic."""

from __future__ import annotations

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp

from td3_brax.envs.task import Task
from td3_brax.envs.vector import all_finite, select


@flax.struct.dataclass
class Scores:
    """Results of E greedy episodes.

    ``value_sum``, ``true_value_sum`` and ``states`` compare the critic's values with the true ones, as in the
    paper's figure 1. They are sums over the states in the first half of the time limit, where the rewards
    that the time limit cuts off hardly matter.
    """

    returns: jax.Array
    """[E] undiscounted returns."""
    lengths: jax.Array
    """[E] int32, environment steps."""
    value_sum: jax.Array
    """[E] sum of the critic's values of the policy's actions in these states."""
    true_value_sum: jax.Array
    """[E] sum of the discounted returns from these states on."""
    states: jax.Array
    """[E] int32, number of these states."""
    broken: jax.Array
    """[E] bool, whether the physics, an observation or a reward broke; the return is then meaningless."""


def greedy_returns(
    task: Task,
    policy: Callable[[jax.Array], jax.Array],
    keys: jax.Array,
    time_limit: int,
    value: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    gamma: jax.Array | float = 0.0,
) -> Scores:
    """Play whole episodes without noise, each from its own freshly drawn initial state.

    An episode ends when the task terminates it, at the time limit, or when something in it breaks, even its
    initial state (:func:`td3_brax.envs.vector.all_finite`). Its sums cover the steps before that. The loop
    stops after the last episode has ended.

    Args:
        policy: observations [E, O] -> actions [E, A] in [-1, 1].
        keys: [E], PRNG keys.
        time_limit: environment steps after which an episode is truncated.
        value: the critic: observations [E, O] and actions [E, A] -> values [E]. Without it ``value_sum`` is
            0.
        gamma: [], discount of ``true_value_sum``.
    """
    episodes = keys.shape[0]
    state, obs = jax.vmap(task.reset)(keys)
    zeros, zero_counts = jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32)
    intact = all_finite((state, obs))
    start = (
        jnp.int32(0),
        state,
        obs,
        intact,
        Scores(zeros, zero_counts, zeros, zeros, zero_counts, ~intact),
        zeros,
    )

    def unfinished(carry: tuple) -> jax.Array:
        t, _, _, alive, _, _ = carry
        return (t < time_limit) & alive.any()

    def step(carry: tuple) -> tuple:
        t, state, obs, alive, scores, weight = carry
        action = policy(obs)
        out = jax.vmap(task.step)(state, action)
        finite = all_finite((out.state, out.obs, out.reward))
        counts = alive & finite
        early = counts & (t < time_limit // 2)
        # The reward adds gamma^k of itself to the return of the state k steps before; weight sums gamma^k.
        weight = early + gamma * weight
        reward = jnp.where(counts, out.reward, 0)
        predicted = value(obs, action) if value else zeros
        scores = Scores(
            returns=scores.returns + reward,
            lengths=scores.lengths + counts,
            value_sum=scores.value_sum + jnp.where(early, predicted, 0),
            true_value_sum=scores.true_value_sum + weight * reward,
            states=scores.states + early,
            broken=scores.broken | (alive & ~finite),
        )
        state, obs = select(counts, (out.state, out.obs), (state, obs))
        return t + 1, state, obs, counts & ~out.terminated, scores, weight

    return jax.lax.while_loop(unfinished, step, start)[4]
