"""Actor, critic ensemble, observation normaliser."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from td3_brax.shards import total
from td3_brax.state import ObsStats, Params

OBS_CLIP = 10.0
MIN_DEVIATION = 1e-2
WIDE = 48
"""Inputs and outputs from which a layer's product is made in ``compute_dtype``: smaller ones cost little."""


UNROLLED = 2
"""Batched products that are made one by one on a CPU, where XLA's batched one uses a single core."""


def _make_product(contracting: tuple[tuple[int], tuple[int]]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Of two matrices over an axis of each, summed in float32."""

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, (contracting, ((), ())), preferred_element_type=jnp.float32)

    whole = jax.custom_batching.custom_vmap(product)

    @whole.def_vmap
    def _(size: int, batched: list[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
        axes = tuple(0 if is_batched else None for is_batched in batched)
        if size > UNROLLED:
            return jax.vmap(product, axes)(a, b), True

        def one_by_one(a: jax.Array, b: jax.Array) -> jax.Array:
            pick = [(lambda x, i: x[i]) if is_batched else (lambda x, i: x) for is_batched in batched]
            return jnp.stack([whole(pick[0](a, i), pick[1](b, i)) for i in range(size)])

        return jax.lax.platform_dependent(a, b, cpu=one_by_one, default=jax.vmap(product, axes)), True

    return whole


_rows_by_columns = _make_product(((1,), (0,)))
_rows_by_rows = _make_product(((1,), (1,)))
_columns_by_columns = _make_product(((0,), (0,)))


@jax.custom_vjp
def product_bfloat16(x: jax.Array, w: jax.Array) -> jax.Array:
    """``x`` [B, I] times ``w`` [I, O], operands rounded to bfloat16, summed in float32; so its gradients."""
    return _rows_by_columns(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return _rows_by_columns(x, w), (x, w)


def _backward(kept: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    grad = grad.astype(jnp.bfloat16)

    def by_unit_matrix(x: jax.Array, grad: jax.Array) -> jax.Array:
        # XLA's bfloat16 product for CPUs takes no transposed left operand. A product with the unit
        # matrix transposes exactly, and costs less than moving the elements or multiplying in float32.
        transposed = _rows_by_rows(jnp.eye(x.shape[1], dtype=x.dtype), x)
        return _rows_by_columns(transposed.astype(x.dtype), grad)

    grad_w = jax.lax.platform_dependent(x, grad, cpu=by_unit_matrix, default=_columns_by_columns)
    return _rows_by_rows(grad, w), grad_w


product_bfloat16.defvjp(_forward, _backward)


class Dense(nn.Module):
    """x [B, I] -> [B, features], weights and biases U(+-1/sqrt(I)) as in the paper's authors' framework.

    Parameters and what comes out are float32; the product's operands are ``compute_dtype``.
    """

    features: int
    compute_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        inputs = x.shape[-1]

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, jnp.float32, -(inputs**-0.5), inputs**-0.5)

        kernel = self.param("kernel", uniform, (inputs, self.features))
        bias = self.param("bias", uniform, (self.features,))
        if self.compute_dtype == "float32":
            return x @ kernel + bias
        return product_bfloat16(x.reshape(-1, inputs), kernel).reshape(*x.shape[:-1], -1) + bias


class MLP(nn.Module):
    """ReLU layers of ``hidden_sizes`` and a linear one of ``outputs``: [..., I] -> [..., outputs]."""

    hidden_sizes: tuple[int, ...]
    outputs: int
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        for i, size in enumerate((*self.hidden_sizes, self.outputs)):
            if i:
                x = nn.relu(x)
            wide = min(x.shape[-1], size) >= WIDE
            x = Dense(size, self.compute_dtype if wide else "float32", name=f"layer_{i}")(x)
        return x


class Actor(nn.Module):
    """Deterministic policy: normalised observation [..., O] -> action [..., A] in [-1, 1]."""

    hidden_sizes: tuple[int, ...]
    action_size: int
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """See the class."""
        return jnp.tanh(MLP(self.hidden_sizes, self.action_size, self.compute_dtype, name="mlp")(obs))


class Critic(nn.Module):
    """An ensemble of action values as one batched module: [B, O], [B, A] -> [num_critics, B, num_atoms].

    What the outputs stand for is in ``values.py``.
    """

    hidden_sizes: tuple[int, ...]
    num_critics: int
    num_atoms: int = 1
    compute_dtype: str = "float32"
    network: type[nn.Module] = MLP
    """Of each, made as an :class:`MLP` is."""

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """See the class."""
        ensemble = nn.vmap(
            self.network,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # every critic sees the same input
            out_axes=0,
            axis_size=self.num_critics,
        )
        x = jnp.concatenate([obs, action], axis=-1)
        return ensemble(self.hidden_sizes, self.num_atoms, self.compute_dtype, name="mlp")(x)


def apply(network: nn.Module, params: Params, *inputs: jax.Array) -> jax.Array:
    """``network`` with ``params`` on ``inputs``."""
    return cast(jax.Array, network.apply(params, *inputs))


def init_obs_stats(obs_size: int) -> ObsStats:
    """No observation seen."""
    return ObsStats(count=jnp.zeros(()), mean=jnp.zeros(obs_size), square_sum=jnp.zeros(obs_size))


def update_obs_stats(stats: ObsStats, obs: jax.Array, valid: jax.Array, shards: int = 1) -> ObsStats:
    """Add all shards' observations [N, O] whose ``valid`` [N] is 1 (Chan, Golub, LeVeque 1983, eq. 2.1)."""
    weight = valid[:, None]
    added, sum_added = total((valid.sum(), (weight * obs).sum(axis=0)), shards)
    count = jnp.maximum(stats.count + added, 1.0)
    mean_added = sum_added / jnp.maximum(added, 1.0)
    delta = mean_added - stats.mean
    square_sum_added = total((weight * (obs - mean_added) ** 2).sum(axis=0), shards)
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
