"""Packing of a network's parameter tree into one array, and back."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from td3_brax.algorithm.state import Params


def pack(tree: Params) -> jax.Array:
    """Concatenate the leaves of a tree into one array [P], which an optimiser updates in one operation."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def unpack(network: nn.Module, params: Params, *inputs: jax.Array) -> Params:
    """Return ``network``'s parameter tree for ``inputs`` [..., I]; ``params`` is that tree, or packed [P]."""
    if isinstance(params, Mapping):
        return params
    return _unpack(*parameter_shapes(network, *(x.shape[-1] for x in inputs)), params)


@functools.cache
def parameter_shapes(network: nn.Module, *sizes: int) -> tuple[Any, tuple[tuple[int, ...], ...]]:
    """Return the structure and the leaves' shapes of a network's parameters, for inputs of ``sizes``."""
    inputs = [jax.ShapeDtypeStruct((1, size), jnp.float32) for size in sizes]
    leaves, structure = jax.tree.flatten(jax.eval_shape(network.init, jax.random.key(0), *inputs))
    return structure, tuple(leaf.shape for leaf in leaves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _unpack(structure: Any, shapes: tuple[tuple[int, ...], ...], params: jax.Array) -> Params:
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    leaves = jnp.split(params, ends[:-1])
    return jax.tree.unflatten(structure, [x.reshape(shape) for x, shape in zip(leaves, shapes, strict=True)])


# Without this rule the gradient would be a sum of one padded array [P] per leaf.
_unpack.defvjp(lambda *args: (_unpack(*args), None), lambda structure, shapes, _, grads: (pack(grads),))
