"""Run a network: by XLA, or on an NVIDIA GPU by hand-written kernels."""

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
    from td3_brax.kernels import layers

    form = _layers(network, *(x.shape[-1] for x in inputs))
    form = dataclasses.replace(form, copies=copies or form.copies, interpret=interpret)
    x = network.joined(*inputs) if isinstance(network, Critic) else inputs[0]
    out = layers.mlp(form, params, x.reshape(-1, x.shape[-1]))
    out = out.reshape(form.copies, *x.shape[:-1], -1)
    return tanh(out[0]) if isinstance(network, Actor) else out


@functools.cache
def _layers(network: Actor | Critic, *sizes: int) -> Any:
    """Where a packed network's layers lie, as a ``layers.Layers``."""
    from td3_brax.kernels.layers import Layer, Layers

    structure, shapes = parameter_shapes(network, *sizes)
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
