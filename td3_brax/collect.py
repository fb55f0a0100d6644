"""One vector step of one member: act, step, transition."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from td3_brax.envs.vector import VectorEnv
from td3_brax.networks import normalize
from td3_brax.state import EnvState, EpisodeStats, Hyper, ObsStats, Params, Transition


def explore(
    actor: nn.Module,
    params: Params,
    hyper: Hyper,
    obs: jax.Array,
    env_steps: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Actions [N, A] in [-1, 1]: the policy's with Gaussian noise, or uniform during the warm-up.

    Environment i of N explores with ``exploration_noise + exploration_noise_spread * i / (N - 1)``.

    Args:
        obs: [N, O], as the actor takes it.
        env_steps: [], of the run so far.
    """
    noise_key, uniform_key = jax.random.split(key)
    action = actor.apply(params, obs)
    num_envs = action.shape[0]
    share = jnp.arange(num_envs)[:, None] / max(num_envs - 1, 1)
    sigma = hyper.exploration_noise + hyper.exploration_noise_spread * share
    action = jnp.clip(action + sigma * jax.random.normal(noise_key, action.shape), -1, 1)
    uniform = jax.random.uniform(uniform_key, action.shape, minval=-1, maxval=1)
    return jnp.where(env_steps < hyper.warmup_env_steps, uniform, action)


def vector_step(
    env: VectorEnv,
    actor: nn.Module,
    params: Params,
    hyper: Hyper,
    obs_stats: ObsStats | None,
    state: EnvState,
    env_steps: jax.Array,
    key: jax.Array,
) -> tuple[EnvState, Transition, EpisodeStats]:
    """Act and step N environments once; transition leaves are [N, ...].

    Args:
        obs_stats: what to normalise observations with, or None to leave them as they are.
    """
    obs: Any = state.obs if obs_stats is None else normalize(obs_stats, state.obs)
    action = explore(actor, params, hyper, obs, env_steps, key)
    return env.step(state, action)
