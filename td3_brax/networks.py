"""Actor, critic ensemble, their parameters as one array, observation normaliser."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from td3_brax.device import triton_gpus
from td3_brax.shards import TWINS, total
from td3_brax.state import ObsStats, Params

OBS_CLIP = 10.0
MIN_DEVIATION = 1e-2
LEAST_WEIGHT = 2.0**-20
"""Of a vector step's observations among all that were seen."""
WIDE = 48
"""Inputs and outputs from which a layer's product is made in ``compute_dtype``: smaller ones cost little."""


def _make_product(contracting: tuple[tuple[int], tuple[int]]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Of two matrices over an axis of each, summed in float32 or wider."""

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return jax.lax.dot_general(a, b, (contracting, ((), ())), preferred_element_type=wide)

    whole = jax.custom_batching.custom_vmap(product)

    @whole.def_vmap
    def _(size: int, batched: list[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
        axes = tuple(0 if is_batched else None for is_batched in batched)
        at_once = jax.vmap(product, axes)
        if size > TWINS:
            return at_once(a, b), True
        if size == 1:
            a, b = (x[0] if is_batched else x for x, is_batched in zip((a, b), batched, strict=True))
            return whole(a, b)[None], True

        def with_copies(a: jax.Array, b: jax.Array) -> jax.Array:
            # What is shared is repeated, out of the compiler's sight: it would make one wide product of
            # them, and transpose what goes in and comes out.
            def repeated(x: jax.Array) -> jax.Array:
                return jax.lax.optimization_barrier(jnp.broadcast_to(x, (size, *x.shape)))

            both = [x if is_batched else repeated(x) for x, is_batched in zip((a, b), batched, strict=True)]
            return jax.vmap(product)(*both)

        return jax.lax.platform_dependent(a, b, cpu=at_once, default=with_copies), True

    return whole


_rows_by_columns = _make_product(((1,), (0,)))
_rows_by_rows = _make_product(((1,), (1,)))
_columns_by_columns = _make_product(((0,), (0,)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, w: jax.Array, dtype: str) -> jax.Array:
    """``x`` [B, I] times ``w`` [I, O], operands rounded to ``dtype``, summed in float32; so its gradients."""
    return _forward(x, w, dtype)[0]


def _rounded(x: jax.Array, dtype: str) -> jax.Array:
    return x.astype(jnp.bfloat16) if dtype == "bfloat16" else x


def _forward(x: jax.Array, w: jax.Array, dtype: str) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x, w = _rounded(x, dtype), _rounded(w, dtype)
    return _rows_by_columns(x, w), (x, w)


def _backward(dtype: str, kept: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    grad = _rounded(grad, dtype)

    def by_unit_matrix(x: jax.Array, grad: jax.Array) -> jax.Array:
        # XLA's bfloat16 product for CPUs takes no transposed left operand. A product with the unit
        # matrix transposes exactly, and costs less than moving the elements or multiplying in float32.
        transposed = _rows_by_rows(jnp.eye(x.shape[1], dtype=x.dtype), x)
        return _rows_by_columns(transposed.astype(x.dtype), grad)

    if dtype == "bfloat16":
        grad_w = jax.lax.platform_dependent(x, grad, cpu=by_unit_matrix, default=_columns_by_columns)
    else:
        grad_w = _columns_by_columns(x, grad)
    return _rows_by_rows(grad, w), grad_w


product.defvjp(_forward, _backward)


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


def product_dtype(inputs: int, outputs: int, compute_dtype: str) -> str:
    """What a layer's product is made in."""
    return compute_dtype if min(inputs, outputs) >= WIDE else "float32"


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


def pack(tree: Params) -> jax.Array:
    """A tree's leaves one after another [P]: to an accelerator one array, and one step of an optimiser."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def unpack(network: nn.Module, params: Params, *inputs: jax.Array) -> Params:
    """The tree that ``network`` takes with ``inputs`` [..., I], of the same or of one array [P]."""
    if isinstance(params, Mapping):
        return params
    return _unpack(*_form(network, *(x.shape[-1] for x in inputs)), params)


@functools.cache
def _form(network: nn.Module, *sizes: int) -> tuple[Any, tuple[tuple[int, ...], ...]]:
    """The structure of a network's parameter tree and its leaves' shapes, for inputs of these sizes."""
    inputs = [jax.ShapeDtypeStruct((1, size), jnp.float32) for size in sizes]
    leaves, structure = jax.tree.flatten(jax.eval_shape(network.init, jax.random.key(0), *inputs))
    return structure, tuple(leaf.shape for leaf in leaves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _unpack(structure: Any, shapes: tuple[tuple[int, ...], ...], params: jax.Array) -> Params:
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    leaves = jnp.split(params, ends[:-1])
    return jax.tree.unflatten(structure, [x.reshape(shape) for x, shape in zip(leaves, shapes, strict=True)])


# The gradient by itself would be a sum of as many arrays [P] as there are leaves.
_unpack.defvjp(lambda *args: (_unpack(*args), None), lambda structure, shapes, _, grads: (pack(grads),))


def apply(network: nn.Module, params: Params, *inputs: jax.Array) -> jax.Array:
    """``network`` with ``params``, a tree or packed, on ``inputs``."""

    def by_xla(params: Params, *inputs: jax.Array) -> jax.Array:
        return _by_xla(network, unpack(network, params, *inputs), *inputs)

    return _anywhere(network, by_xla, None, params, *inputs)


def _by_xla(network: nn.Module, tree: Params, *inputs: jax.Array) -> jax.Array:
    """``network`` with a tree, by XLA; on a CPU bfloat16 twins one by one.

    XLA's batched product of bfloat16 uses a single core there, and stacking what each makes takes longer
    than using it.
    """

    def together(tree: Params, *inputs: jax.Array) -> jax.Array:
        return cast(jax.Array, network.apply(tree, *inputs))

    narrow = isinstance(network, Critic) and network.compute_dtype == "bfloat16"
    if not narrow or network.num_critics > TWINS:
        return together(tree, *inputs)
    one, count = network.clone(num_critics=1), network.num_critics

    def one_by_one(tree: Params, *inputs: jax.Array) -> jax.Array:
        leaves, structure = jax.tree.flatten(tree)
        parts = zip(*(jax.lax.split(leaf, (1,) * count) for leaf in leaves), strict=True)
        out = [cast(jax.Array, one.apply(jax.tree.unflatten(structure, part), *inputs)) for part in parts]
        return jnp.concatenate(out)

    return jax.lax.platform_dependent(tree, *inputs, cpu=one_by_one, default=together)


def apply_first(critic: Critic, params: Params, *inputs: jax.Array) -> jax.Array:
    """The first critic of an ensemble: [B, O], [B, A] -> [B, num_atoms]. ``params`` get no gradient."""

    def by_xla(params: Params, *inputs: jax.Array) -> jax.Array:
        first = jax.tree.map(lambda leaf: leaf[:1], unpack(critic, params, *inputs))
        return cast(jax.Array, critic.clone(num_critics=1).apply(first, *inputs))

    return _anywhere(critic, by_xla, 1, jax.lax.stop_gradient(params), *inputs)[0]


def _anywhere(
    network: nn.Module,
    by_xla: Callable[..., jax.Array],
    copies: int | None,
    params: Params,
    *inputs: jax.Array,
) -> jax.Array:
    """``by_xla``, or on a GPU that can, with packed parameters, the same by kernels."""
    if isinstance(params, Mapping) or not has_kernels(network):
        return by_xla(params, *inputs)
    by_kernels = functools.partial(in_kernels, network, copies) if triton_gpus() else by_xla
    return jax.lax.platform_dependent(params, *inputs, cuda=by_kernels, default=by_xla)


def has_kernels(network: nn.Module) -> bool:
    """Whether ``network`` is one whose layers ``layers.py`` knows."""
    return isinstance(network, Actor) or (isinstance(network, Critic) and network.network is MLP)


def in_kernels(
    network: nn.Module, copies: int | None, params: jax.Array, *inputs: jax.Array, interpret: bool = False
) -> jax.Array:
    """:func:`apply` on a GPU, with packed ``params`` [P]; of an ensemble, its first ``copies``."""
    from td3_brax import layers

    form = _layers(network, *(x.shape[-1] for x in inputs))
    form = dataclasses.replace(form, copies=copies or form.copies, interpret=interpret)
    x = network.joined(*inputs) if isinstance(network, Critic) else inputs[0]
    out = layers.mlp(form, params, x.reshape(-1, x.shape[-1]))
    out = out.reshape(form.copies, *x.shape[:-1], -1)
    return tanh(out[0]) if isinstance(network, Actor) else out


@functools.cache
def _layers(network: Actor | Critic, *sizes: int) -> Any:
    """Where a packed network's layers lie, as a ``layers.Layers``."""
    from td3_brax.layers import Layer, Layers

    structure, shapes = _form(network, *sizes)
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    starts = jax.tree.unflatten(structure, [0, *ends[:-1]])["params"]["mlp"]
    outputs = network.action_size if isinstance(network, Actor) else network.num_atoms
    widths = [sum(sizes), *network.hidden_sizes, outputs]
    made = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        at, dtype = starts[f"layer_{i}"], product_dtype(before, after, network.compute_dtype)
        made.append(Layer(before, after, at["kernel"], at["bias"], dtype))
    copies = network.num_critics if isinstance(network, Critic) else 1
    return Layers(tuple(made), copies, ends[-1])


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
