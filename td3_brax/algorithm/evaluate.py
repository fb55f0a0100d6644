"""Greedy returns, on the device, and what the critic says of them."""

from __future__ import annotations

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp

from td3_brax.envs.task import Task
from td3_brax.envs.vector import all_finite, select


@flax.struct.dataclass
class Scores:
    """What each of E episodes came to.

    The last three compare the critic's values with what truly followed (the paper's figure 1): sums over
    the states of the first half of the time limit, so that what a time limit cuts off hardly counts.
    """

    returns: jax.Array
    """[E]"""
    lengths: jax.Array
    """[E] int32"""
    value_sum: jax.Array
    """[E], of the critic's values of the policy's actions there."""
    later_sum: jax.Array
    """[E], of the discounted returns from there on."""
    states: jax.Array
    """[E] int32, how many there were."""
    broken: jax.Array
    """[E] bool: it ended where physics, an observation or a reward broke, so that its return is none."""


def greedy_returns(
    task: Task,
    policy: Callable[[jax.Array], jax.Array],
    keys: jax.Array,
    time_limit: int,
    value: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    gamma: jax.Array | float = 0.0,
) -> Scores:
    """Play whole episodes without noise, each from its own newly drawn initial state.

    An episode ends when the task terminates it, at the time limit, or where something in it breaks, which
    may be its initial state (:func:`td3_brax.envs.vector.all_finite`); sums are up to there. The loop ends
    with the last episode.

    Args:
        keys: [E]
        policy: observations [E, O] -> actions [E, A] in [-1, 1].
        value: the critic's, of those observations and actions, [E]; without it its sums are 0.
        gamma: [], the discount of ``later_sum``.
    """
    episodes = keys.shape[0]
    state, obs = jax.vmap(task.reset)(keys)
    nothing, none = jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32)
    begins = all_finite((state, obs))
    start = (
        jnp.int32(0),
        state,
        obs,
        begins,
        Scores(nothing, none, nothing, nothing, none, ~begins),
        nothing,
    )

    def going(carry: tuple) -> jax.Array:
        t, _, _, alive, _, _ = carry
        return (t < time_limit) & alive.any()

    def step(carry: tuple) -> tuple:
        t, state, obs, alive, scores, weight = carry
        action = policy(obs)
        out = jax.vmap(task.step)(state, action)
        finite = all_finite((out.state, out.obs, out.reward))
        counts = alive & finite
        early = counts & (t < time_limit // 2)
        # The discounted returns from s_0, s_1, ... all hold this reward: with weights 1, gamma, gamma^2, ...
        weight = early + gamma * weight
        reward = jnp.where(counts, out.reward, 0)
        says = value(obs, action) if value else nothing
        scores = Scores(
            returns=scores.returns + reward,
            lengths=scores.lengths + counts,
            value_sum=scores.value_sum + jnp.where(early, says, 0),
            later_sum=scores.later_sum + weight * reward,
            states=scores.states + early,
            broken=scores.broken | (alive & ~finite),
        )
        state, obs = select(counts, (out.state, out.obs), (state, obs))
        return t + 1, state, obs, counts & ~out.terminated, scores, weight

    return jax.lax.while_loop(going, step, start)[4]
