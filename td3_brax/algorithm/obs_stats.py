"""Observation statistics, and normalisation with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from td3_brax.algorithm.shards import shard_sum
from td3_brax.algorithm.state import ObsStats

OBS_CLIP = 10.0
MIN_DEVIATION = 1e-2
MIN_WEIGHT = 2.0**-20
"""Least weight of a vector step's observations in the running mean and variance."""


def init_obs_stats(obs_size: int) -> ObsStats:
    """Return the statistics before any observation."""
    return ObsStats(count=jnp.zeros((), jnp.int32), mean=jnp.zeros(obs_size), variance=jnp.zeros(obs_size))


def update_obs_stats(stats: ObsStats, obs: jax.Array, valid: jax.Array, shards: int = 1) -> ObsStats:
    """Add all shards' observations [N, O] whose ``valid`` [N] is 1 (Chan, Golub, LeVeque 1983, eq. 2.1).

    Their weight is at least 2^-20, because float32 would lose the differences that smaller weights make.
    """
    rows = valid[:, None]
    added, sum_added = shard_sum((valid.sum(), (rows * obs).sum(axis=0)), shards)
    count = stats.count + added.astype(jnp.int32)
    mean_added = sum_added / jnp.maximum(added, 1.0)
    delta = mean_added - stats.mean
    variance_added = shard_sum((rows * (obs - mean_added) ** 2).sum(axis=0), shards) / jnp.maximum(added, 1.0)
    weight = jnp.maximum(added / jnp.maximum(count, 1), jnp.where(added > 0, MIN_WEIGHT, 0))
    return ObsStats(
        count=count,
        mean=stats.mean + weight * delta,
        variance=stats.variance + weight * (variance_added - stats.variance + (1 - weight) * delta**2),
    )


def deviation(stats: ObsStats) -> jax.Array:
    """Return the standard deviation [O], at least 0.01; it is 1 before the second observation."""
    return jnp.where(stats.count > 1, jnp.maximum(jnp.sqrt(stats.variance), MIN_DEVIATION), 1.0)


def normalize(stats: ObsStats, obs: jax.Array) -> jax.Array:
    """Subtract the mean from ``obs`` [..., O], divide by the standard deviation and clip to +-10."""
    return jnp.clip((obs - stats.mean) / deviation(stats), -OBS_CLIP, OBS_CLIP)
