"""Exploration: how a member acts while it collects experience."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from td3_brax.algorithm.state import Hyper


def explore(
    action: jax.Array, hyper: Hyper, env_steps: jax.Array, place: jax.Array, key: jax.Array
) -> jax.Array:
    """Return actions [N, A] in [-1, 1]: the policy's plus Gaussian noise, or uniform ones during warm-up.

    The noise of an environment at ``place`` has the standard deviation
    ``exploration_noise + exploration_noise_spread * place``.

    Args:
        action: [N, A], the policy's actions.
        env_steps: [], environment steps of the run so far.
        place: [N], position of each environment among all of the run's, between 0 and 1; 0.5 for a single
            one.
    """
    noise_key, uniform_key = jax.random.split(key)
    sigma = hyper.exploration_noise + hyper.exploration_noise_spread * place[:, None]
    action = jnp.clip(action + sigma * jax.random.normal(noise_key, action.shape), -1, 1)
    uniform = jax.random.uniform(uniform_key, action.shape, minval=-1, maxval=1)
    return jnp.where(env_steps < hyper.warmup_env_steps, uniform, action)
