"""One run over several devices: environments, replay and batches are split, networks are alike on all.

A shard is what one device holds: N environments, a ring of C rows, B transitions of each batch. The
functions of a run see one shard, and meet the others here alone: sums, means, keys and places.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from td3_brax.state import Member, Replay, TrainState

AXIS = "shard"
Tree = TypeVar("Tree")

ALIKE: Any = PartitionSpec()
SPLIT: Any = PartitionSpec(AXIS)
SPLIT_SECOND: Any = PartitionSpec(None, AXIS)
STATE = TrainState(
    members=Member(
        env=SPLIT_SECOND,
        learner=ALIKE,
        obs_stats=ALIKE,
        hyper=ALIKE,
        key=ALIKE,
        env_steps=ALIKE,
        updates=ALIKE,
    ),
    replay=Replay(rows=SPLIT, position=ALIKE, size=ALIKE),
)
"""How the leaves of a :class:`TrainState` lie on the devices."""


def total(tree: Tree, shards: int) -> Tree:
    """Each leaf summed over the shards."""
    return tree if shards == 1 else jax.lax.psum(tree, AXIS)


def mean(tree: Tree, shards: int) -> Tree:
    """Each float leaf averaged over the shards: one reduction for the whole tree."""
    if shards == 1:
        return tree
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.psum(flat, AXIS) / shards)


def index(shards: int) -> jax.Array:
    """[] int32, which shard this is."""
    return jnp.int32(0) if shards == 1 else jax.lax.axis_index(AXIS)


def own_key(key: jax.Array, shards: int) -> jax.Array:
    """A key of this shard's own, from one that is alike on all."""
    return key if shards == 1 else jax.random.fold_in(key, index(shards))


def jit(
    function: Callable[..., Any],
    shards: int,
    in_specs: Any = ALIKE,
    out_specs: Any = ALIKE,
    donate_argnums: tuple[int, ...] = (),
) -> Any:
    """``function`` of one shard, jitted over the first ``shards`` devices; specs as for ``shard_map``."""
    if shards == 1:
        return jax.jit(function, donate_argnums=donate_argnums)
    mesh = Mesh(np.array(jax.devices()[:shards]), (AXIS,), axis_types=(AxisType.Auto,))

    def placed(specs: Any) -> Any:
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)

    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False),
        in_shardings=placed(in_specs),
        out_shardings=placed(out_specs),
        donate_argnums=donate_argnums,
    )


def is_spec(x: object) -> bool:
    """Whether ``x`` says how an array lies on the devices."""
    return isinstance(x, PartitionSpec)


def shard_shapes(state: TrainState, shards: int) -> TrainState:
    """What one device holds of ``state``, as shapes."""

    def part(spec: PartitionSpec, tree: Any) -> Any:
        def leaf(x: Any) -> jax.ShapeDtypeStruct:
            sizes = [n // shards if axis == AXIS else n for n, axis in zip_longest(x.shape, spec)]
            return jax.ShapeDtypeStruct(tuple(sizes), x.dtype)

        return jax.tree.map(leaf, tree)

    return jax.tree.map(part, STATE, state, is_leaf=is_spec)
