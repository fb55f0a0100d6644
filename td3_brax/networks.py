"""Actor, critic ensemble, observation normaliser."""

from __future__ import annotations

from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from td3_brax.state import ObsStats, Params

OBS_CLIP = 10.0
MIN_DEVIATION = 1e-2


def dense(features: int, inputs: int, name: str) -> nn.Dense:
    """A layer with weights and biases U(+-1/sqrt(inputs)), as in the paper's authors' framework."""

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(inputs**-0.5), inputs**-0.5)

    return nn.Dense(features, kernel_init=uniform, bias_init=uniform, name=name)


class MLP(nn.Module):
    """ReLU layers of ``hidden_sizes`` and a linear one of ``outputs``: [..., I] -> [..., outputs]."""

    hidden_sizes: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        for i, size in enumerate((*self.hidden_sizes, self.outputs)):
            if i:
                x = nn.relu(x)
            x = dense(size, x.shape[-1], f"layer_{i}")(x)
        return x


class Actor(nn.Module):
    """Deterministic policy: normalised observation [..., O] -> action [..., A] in [-1, 1]."""

    hidden_sizes: tuple[int, ...]
    action_size: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """See the class."""
        return jnp.tanh(MLP(self.hidden_sizes, self.action_size, name="mlp")(obs))


class Critic(nn.Module):
    """An ensemble of action values as one batched module: [B, O], [B, A] -> [num_critics, B]."""

    hidden_sizes: tuple[int, ...]
    num_critics: int

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """See the class."""
        ensemble = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # every critic sees the same input
            out_axes=0,
            axis_size=self.num_critics,
        )
        x = jnp.concatenate([obs, action], axis=-1)
        return ensemble(self.hidden_sizes, 1, name="mlp")(x)[..., 0]


def apply(network: nn.Module, params: Params, *inputs: jax.Array) -> jax.Array:
    """``network`` with ``params`` on ``inputs``."""
    return cast(jax.Array, network.apply(params, *inputs))


def init_obs_stats(obs_size: int) -> ObsStats:
    """No observation seen."""
    return ObsStats(count=jnp.zeros(()), mean=jnp.zeros(obs_size), square_sum=jnp.zeros(obs_size))


def update_obs_stats(stats: ObsStats, obs: jax.Array, valid: jax.Array) -> ObsStats:
    """Add the observations [N, O] whose ``valid`` [N] is 1 (Chan, Golub, LeVeque 1983, equation 2.1)."""
    added = valid.sum()
    count = jnp.maximum(stats.count + added, 1.0)
    weight = valid[:, None]
    mean_added = (weight * obs).sum(axis=0) / jnp.maximum(added, 1.0)
    delta = mean_added - stats.mean
    square_sum_added = (weight * (obs - mean_added) ** 2).sum(axis=0)
    return ObsStats(
        count=stats.count + added,
        mean=stats.mean + delta * added / count,
        square_sum=stats.square_sum + square_sum_added + delta**2 * stats.count * added / count,
    )


def deviation(stats: ObsStats) -> jax.Array:
    """[O] standard deviation, at least 0.01; 1 before anything was seen."""
    spread = jnp.sqrt(stats.square_sum / jnp.maximum(stats.count, 1.0))
    return jnp.where(stats.count > 1, jnp.maximum(spread, MIN_DEVIATION), 1.0)


def normalize(stats: ObsStats, obs: jax.Array) -> jax.Array:
    """``obs`` [..., O] less its mean over its deviation, clipped to +-10."""
    return jnp.clip((obs - stats.mean) / deviation(stats), -OBS_CLIP, OBS_CLIP)
