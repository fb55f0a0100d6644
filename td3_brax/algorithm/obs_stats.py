"""Running mean and variance of observations, and their normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from td3_brax.algorithm.shards import total
from td3_brax.algorithm.state import ObsStats

OBS_CLIP = 10.0
MIN_DEVIATION = 1e-2
LEAST_WEIGHT = 2.0**-20
"""Of a vector step's observations among all that were seen."""


def init_obs_stats(obs_size: int) -> ObsStats:
    """Return the statistics before any observation."""
    return ObsStats(count=jnp.zeros((), jnp.int32), mean=jnp.zeros(obs_size), variance=jnp.zeros(obs_size))


def update_obs_stats(stats: ObsStats, obs: jax.Array, valid: jax.Array, shards: int = 1) -> ObsStats:
    """Add all shards' observations [N, O] whose ``valid`` [N] is 1 (Chan, Golub, LeVeque 1983, eq. 2.1).

    They weigh 2^-20 at least: float32 would lose the differences that smaller weights make.
    """
    rows = valid[:, None]
    added, sum_added = total((valid.sum(), (rows * obs).sum(axis=0)), shards)
    count = stats.count + added.astype(jnp.int32)
    mean_added = sum_added / jnp.maximum(added, 1.0)
    delta = mean_added - stats.mean
    variance_added = total((rows * (obs - mean_added) ** 2).sum(axis=0), shards) / jnp.maximum(added, 1.0)
    weight = jnp.maximum(added / jnp.maximum(count, 1), jnp.where(added > 0, LEAST_WEIGHT, 0))
    return ObsStats(
        count=count,
        mean=stats.mean + weight * delta,
        variance=stats.variance + weight * (variance_added - stats.variance + (1 - weight) * delta**2),
    )


def deviation(stats: ObsStats) -> jax.Array:
    """Return the standard deviation [O], at least 0.01; 1 before anything was seen."""
    return jnp.where(stats.count > 1, jnp.maximum(jnp.sqrt(stats.variance), MIN_DEVIATION), 1.0)


def normalize(stats: ObsStats, obs: jax.Array) -> jax.Array:
    """``obs`` [..., O] less its mean over its deviation, clipped to +-10."""
    return jnp.clip((obs - stats.mean) / deviation(stats), -OBS_CLIP, OBS_CLIP)
