"""A network's parameters as one array, and as a tree again."""

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
    """A tree's leaves one after another [P]: to an accelerator one array, and one step of an optimiser."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def unpack(network: nn.Module, params: Params, *inputs: jax.Array) -> Params:
    """The tree that ``network`` takes with ``inputs`` [..., I], of the same or of one array [P]."""
    if isinstance(params, Mapping):
        return params
    return _unpack(*parameter_shapes(network, *(x.shape[-1] for x in inputs)), params)


@functools.cache
def parameter_shapes(network: nn.Module, *sizes: int) -> tuple[Any, tuple[tuple[int, ...], ...]]:
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
