"""Actor, critic ensemble, their parameters as one array, observation normaliser."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from td3_brax.algorithm.matmul import product, product_dtype


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
        rows = product(x.reshape(-1, inputs), kernel, self.compute_dtype)
        return rows.reshape(*x.shape[:-1], self.features) + bias


@jax.custom_vjp
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Rows of ``x`` [..., N] less their mean over their deviation, times ``scale`` [N], plus ``bias`` [N].

    Ba, Kiros, Hinton 2016, arXiv 1607.06450, equation 4. The gradient is written out because the sums over
    rows that XLA derives, of three factors each, are slow on a CPU; as products they are not.
    """
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
    average = x.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x - average).mean(axis=-1, keepdims=True) + 1e-6)
    normal = (x - average) * inverse
    return normal * scale + bias, (normal, inverse, scale)


def _layer_norm_backward(kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    normal, inverse, scale = kept
    by_normal, rows = grad * normal, tuple(range(grad.ndim - 1))
    average = (grad @ scale)[..., None] / scale.size
    slope = (by_normal @ scale)[..., None] / scale.size
    grad_x = inverse * (grad * scale - average - normal * slope)
    return grad_x, by_normal.sum(axis=rows), grad.sum(axis=rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """:func:`layer_norm` with parameters of its own, for networks of one's own: [..., N] -> [..., N]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return layer_norm(x, scale, self.param("bias", nn.initializers.zeros, (x.shape[-1],)))


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
            dtype = product_dtype(x.shape[-1], size, self.compute_dtype)
            x = Dense(size, dtype, name=f"layer_{i}")(x)
        return x


@jax.custom_jvp
def tanh(x: jax.Array) -> jax.Array:
    """Hyperbolic tangent, with a derivative that is never 0 but far out.

    XLA's float32 one is 1 from 8 on, and so its derivative, 1 - tanh^2, exactly 0: an actor that plays an
    action bound everywhere would stay as it is for ever. Adam moves it as long as there is a gradient at all.
    """
    return jnp.tanh(x)


@tanh.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    small = jnp.exp(-2 * jnp.abs(x))
    return tanh(x), tangent * 4 * small / (1 + small) ** 2


class Actor(nn.Module):
    """Deterministic policy: normalised observation [..., O] -> action [..., A] in [-1, 1]."""

    hidden_sizes: tuple[int, ...]
    action_size: int
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """See the class."""
        return tanh(MLP(self.hidden_sizes, self.action_size, self.compute_dtype, name="mlp")(obs))


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
    action_scale: float = 1.0
    """Actions are multiplied by it."""

    def joined(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """What each of them sees, [B, O + A]."""
        return jnp.concatenate([obs, self.action_scale * action], axis=-1)

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
        x = self.joined(obs, action)
        return ensemble(self.hidden_sizes, self.num_atoms, self.compute_dtype, name="mlp")(x)
