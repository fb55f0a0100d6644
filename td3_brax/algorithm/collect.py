"""How a member acts while it collects."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from td3_brax.algorithm.state import Hyper


def explore(
    action: jax.Array, hyper: Hyper, env_steps: jax.Array, place: jax.Array, key: jax.Array
) -> jax.Array:
    """The policy's actions [N, A] with Gaussian noise, or uniform ones during the warm-up; in [-1, 1].

    An environment at ``place`` explores with ``exploration_noise + exploration_noise_spread * place``.

    Args:
        env_steps: [], of the run so far.
        place: [N], of each environment among all of the run's, between 0 and 1; a single one is at 0.5.
    """
    noise_key, uniform_key = jax.random.split(key)
    sigma = hyper.exploration_noise + hyper.exploration_noise_spread * place[:, None]
    action = jnp.clip(action + sigma * jax.random.normal(noise_key, action.shape), -1, 1)
    uniform = jax.random.uniform(uniform_key, action.shape, minval=-1, maxval=1)
    return jnp.where(env_steps < hyper.warmup_env_steps, uniform, action)
