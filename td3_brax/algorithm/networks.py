"""Neural networks: the actor, the ensemble of critics, and their layers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from td3_brax.algorithm.matmul import product, product_dtype


class Dense(nn.Module):
    """A linear layer, [..., I] -> [..., features].

    Weights and biases start uniform in +-1/sqrt(I), the default of the framework that the paper's authors
    used. Parameters and outputs are float32; the operands of the product are ``compute_dtype``.
    """

    features: int
    compute_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the network; see the class."""
        inputs = x.shape[-1]

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, jnp.float32, -(inputs**-0.5), inputs**-0.5)

        kernel = self.param("kernel", uniform, (inputs, self.features))
        bias = self.param("bias", uniform, (self.features,))
        rows = product(x.reshape(-1, inputs), kernel, self.compute_dtype)
        return rows.reshape(*x.shape[:-1], self.features) + bias


@jax.custom_vjp
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Normalise each row of ``x`` [..., N], multiply by ``scale`` [N] and add ``bias`` [N].

    Normalising subtracts the row's mean and divides by its standard deviation (Ba, Kiros, Hinton 2016,
    arXiv 1607.06450, equation 4). The gradient is written by hand: XLA derives sums of three factors over
    the rows, which are slow on a CPU. Here they are matrix products.
    """
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
    mean = x.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x - mean).mean(axis=-1, keepdims=True) + 1e-6)
    normal = (x - mean) * inverse
    return normal * scale + bias, (normal, inverse, scale)


def _layer_norm_backward(residuals: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    normal, inverse, scale = residuals
    grad_by_normal, rows = grad * normal, tuple(range(grad.ndim - 1))
    mean_grad = (grad @ scale)[..., None] / scale.size
    slope = (grad_by_normal @ scale)[..., None] / scale.size
    grad_x = inverse * (grad * scale - mean_grad - normal * slope)
    return grad_x, grad_by_normal.sum(axis=rows), grad.sum(axis=rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """:func:`layer_norm` with its parameters, for user-defined networks: [..., N] -> [..., N]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the network; see the class."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return layer_norm(x, scale, self.param("bias", nn.initializers.zeros, (x.shape[-1],)))


class MLP(nn.Module):
    """ReLU layers of ``hidden_sizes`` followed by a linear layer: [..., I] -> [..., outputs]."""

    hidden_sizes: tuple[int, ...]
    outputs: int
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the network; see the class."""
        for i, size in enumerate((*self.hidden_sizes, self.outputs)):
            if i:
                x = nn.relu(x)
            dtype = product_dtype(x.shape[-1], size, self.compute_dtype)
            x = Dense(size, dtype, name=f"layer_{i}")(x)
        return x


@jax.custom_jvp
def tanh(x: jax.Array) -> jax.Array:
    """Compute the hyperbolic tangent, with a derivative that does not vanish where tanh rounds to 1.

    XLA's float32 tanh is exactly 1 from 8 on, so its derivative 1 - tanh^2 is exactly 0 there. An actor whose
    actions are all at their bounds could then never change. Adam moves it again if its gradient is not 0,
    however small.
    """
    return jnp.tanh(x)


@tanh.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    small = jnp.exp(-2 * jnp.abs(x))
    return tanh(x), tangent * 4 * small / (1 + small) ** 2


class Actor(nn.Module):
    """The deterministic policy: normalised observation [..., O] -> action [..., A] in [-1, 1]."""

    hidden_sizes: tuple[int, ...]
    action_size: int
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Apply the network; see the class."""
        return tanh(MLP(self.hidden_sizes, self.action_size, self.compute_dtype, name="mlp")(obs))


class Critic(nn.Module):
    """An ensemble of critics as one batched module: [B, O], [B, A] -> [num_critics, B, num_atoms].

    ``values.py`` turns the outputs into action values.
    """

    hidden_sizes: tuple[int, ...]
    num_critics: int
    num_atoms: int = 1
    compute_dtype: str = "float32"
    network: type[nn.Module] = MLP
    """Class of each critic's network, constructed with the arguments of :class:`MLP`."""
    action_scale: float = 1.0
    """Factor by which actions are multiplied before the networks see them."""

    def joined(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Return the input of each critic, [B, O + A]: observation and scaled action."""
        return jnp.concatenate([obs, self.action_scale * action], axis=-1)

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Apply the network; see the class."""
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
