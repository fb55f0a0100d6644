"""Application of a network: by XLA, or by hand-written kernels on an NVIDIA GPU."""

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

from td3_brax.algorithm.matmul import product_dtype
from td3_brax.algorithm.networks import MLP, Actor, Critic, tanh
from td3_brax.algorithm.packing import parameter_shapes, unpack
from td3_brax.algorithm.shards import TWINS
from td3_brax.algorithm.state import Params
from td3_brax.kernels.gpu import triton_gpus


def apply(network: nn.Module, params: Params, *inputs: jax.Array) -> jax.Array:
    """Apply ``network`` with ``params``, a tree or packed, to ``inputs``."""

    def by_xla(params: Params, *inputs: jax.Array) -> jax.Array:
        return _by_xla(network, unpack(network, params, *inputs), *inputs)

    return _dispatch(network, by_xla, None, params, *inputs)


def _by_xla(network: nn.Module, tree: Params, *inputs: jax.Array) -> jax.Array:
    """Apply ``network`` with a parameter tree by XLA; on a CPU, bfloat16 twin critics run one by one.

    There XLA's batched bfloat16 product uses a single core, and stacking the twins' intermediate results
    takes longer than using them.
    """

    def together(tree: Params, *inputs: jax.Array) -> jax.Array:
        return cast(jax.Array, network.apply(tree, *inputs))

    is_bfloat16 = isinstance(network, Critic) and network.compute_dtype == "bfloat16"
    if not is_bfloat16 or network.num_critics > TWINS:
        return together(tree, *inputs)
    single_critic, count = network.clone(num_critics=1), network.num_critics

    def one_by_one(tree: Params, *inputs: jax.Array) -> jax.Array:
        leaves, structure = jax.tree.flatten(tree)
        parts = zip(*(jax.lax.split(leaf, (1,) * count) for leaf in leaves), strict=True)
        out = [
            cast(jax.Array, single_critic.apply(jax.tree.unflatten(structure, part), *inputs))
            for part in parts
        ]
        return jnp.concatenate(out)

    return jax.lax.platform_dependent(tree, *inputs, cpu=one_by_one, default=together)


def apply_first(critic: Critic, params: Params, *inputs: jax.Array) -> jax.Array:
    """Apply the first critic of an ensemble: [B, O], [B, A] -> [B, num_atoms]; ``params`` get no gradient."""

    def by_xla(params: Params, *inputs: jax.Array) -> jax.Array:
        first = jax.tree.map(lambda leaf: leaf[:1], unpack(critic, params, *inputs))
        return cast(jax.Array, critic.clone(num_critics=1).apply(first, *inputs))

    return _dispatch(critic, by_xla, 1, jax.lax.stop_gradient(params), *inputs)[0]


def _dispatch(
    network: nn.Module,
    by_xla: Callable[..., jax.Array],
    copies: int | None,
    params: Params,
    *inputs: jax.Array,
) -> jax.Array:
    """Apply a network by kernels if they support it, its parameters are packed and the GPU runs Triton.

    Otherwise call ``by_xla``.
    """
    if isinstance(params, Mapping) or not supports_kernels(network):
        return by_xla(params, *inputs)
    by_kernels = functools.partial(apply_by_kernels, network, copies) if triton_gpus() else by_xla
    return jax.lax.platform_dependent(params, *inputs, cuda=by_kernels, default=by_xla)


def supports_kernels(network: nn.Module) -> bool:
    """Return whether ``kernels/layers.py`` supports ``network``."""
    return isinstance(network, Actor) or (isinstance(network, Critic) and network.network is MLP)


def apply_by_kernels(
    network: nn.Module, copies: int | None, params: jax.Array, *inputs: jax.Array, interpret: bool = False
) -> jax.Array:
    """Apply ``network`` with packed ``params`` [P] by kernels; only the first ``copies`` of an ensemble.

    Args:
        copies: number of critics to apply; None applies all.
        interpret: run the kernels by XLA, on any device.
    """
    from td3_brax.kernels import layers

    spec = _layers(network, *(x.shape[-1] for x in inputs))
    spec = dataclasses.replace(spec, copies=copies or spec.copies, interpret=interpret)
    x = network.joined(*inputs) if isinstance(network, Critic) else inputs[0]
    out = layers.mlp(spec, params, x.reshape(-1, x.shape[-1]))
    out = out.reshape(spec.copies, *x.shape[:-1], -1)
    return tanh(out[0]) if isinstance(network, Actor) else out


@functools.cache
def _layers(network: Actor | Critic, *sizes: int) -> Any:
    """Return the offsets of a packed network's layers as a :class:`td3_brax.kernels.layers.Layers`."""
    from td3_brax.kernels.layers import Layer, Layers

    structure, shapes = parameter_shapes(network, *sizes)
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    starts = jax.tree.unflatten(structure, [0, *ends[:-1]])["params"]["mlp"]
    outputs = network.action_size if isinstance(network, Actor) else network.num_atoms
    widths = [sum(sizes), *network.hidden_sizes, outputs]
    found = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        start, dtype = starts[f"layer_{i}"], product_dtype(before, after, network.compute_dtype)
        found.append(Layer(before, after, start["kernel"], start["bias"], dtype))
    copies = network.num_critics if isinstance(network, Critic) else 1
    return Layers(tuple(found), copies, ends[-1])
