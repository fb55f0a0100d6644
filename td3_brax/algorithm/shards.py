"""Several devices: a run is split over them (environments, replay, batches), or whole members are spread.

A shard is what one device holds: N environments, a ring of C rows, B transitions of each batch. The
functions of a run see one shard, and meet the others here alone: sums, means, keys and places.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from td3_brax.algorithm.state import Member, Replay, TrainState

AXIS = "shard"
TWINS = 2
"""Critics of an ensemble that a CPU takes one by one; first axes that are not longer are theirs."""
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
"""How the leaves of a :class:`TrainState` lie on the devices that share a run."""
SPREAD = TrainState(
    members=Member(
        env=SPLIT,
        learner=SPLIT,
        obs_stats=SPLIT,
        hyper=SPLIT,
        key=SPLIT,
        env_steps=SPLIT,
        updates=SPLIT,
    ),
    replay=Replay(rows=SPLIT_SECOND, position=ALIKE, size=SPLIT),
)
"""How they lie where each device has whole members of its own, which never meet."""


def total(tree: Tree, shards: int) -> Tree:
    """Each leaf summed over the shards."""
    return tree if shards == 1 else jax.lax.psum(tree, AXIS)


def most(x: jax.Array, shards: int) -> jax.Array:
    """``x``, each element of the shard where it is greatest."""
    return x if shards == 1 else jax.lax.pmax(x, AXIS)


def mean(tree: Tree, shards: int) -> Tree:
    """Each float leaf averaged over the shards: one reduction for the whole tree."""
    if shards == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))
    # Not a concatenation, which on a CPU would compute each of its elements in a loop of branches.
    flat = jnp.zeros(ends[-1], jnp.result_type(*leaves))
    for leaf, end in zip(leaves, ends, strict=True):
        # What twins made is put there by itself, not stacked before.
        rows = list(leaf) if leaf.ndim > 1 and leaf.shape[0] <= TWINS else [leaf]
        for i, row in enumerate(rows):
            flat = jax.lax.dynamic_update_slice(flat, row.ravel(), (end - leaf.size + i * row.size,))
    parts = jnp.split(jax.lax.psum(flat, AXIS) / shards, ends[:-1])
    return jax.tree.unflatten(
        structure, [x.reshape(leaf.shape) for x, leaf in zip(parts, leaves, strict=True)]
    )


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
    devices: Sequence[Any] | None = None,
) -> Any:
    """``function`` of one shard, jitted over the first ``shards`` devices; specs as for ``shard_map``.

    Args:
        devices: others than JAX's own, such as those of a machine that is only described.
    Raises:
        ValueError: there are fewer devices; a program would run on them as if they were all.
    """
    if shards == 1 and devices is None:
        return jax.jit(function, donate_argnums=donate_argnums)
    there = devices or jax.devices()
    if len(there) < shards:
        raise ValueError(f"{shards} shards on {len(there)} devices")
    mesh = Mesh(np.array(there[:shards]), (AXIS,), axis_types=(AxisType.Auto,))

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


@dataclass(frozen=True)
class Layout:
    """How a program's arrays lie on the first ``devices``."""

    devices: int
    state: TrainState
    """Of its state: for each leaf, or branch of them, which axis is divided."""
    members: Any
    """Of arrays [M, ...]."""
    episodes: Any
    """Of arrays [M, episodes, ...] of evaluations."""

    def share(self, state: TrainState) -> TrainState:
        """What one device holds of ``state``, as shapes."""

        def part(spec: PartitionSpec, tree: Any) -> Any:
            def leaf(x: Any) -> jax.ShapeDtypeStruct:
                sizes = [n // self.devices if axis == AXIS else n for n, axis in zip_longest(x.shape, spec)]
                return jax.ShapeDtypeStruct(tuple(sizes), x.dtype)

            return jax.tree.map(leaf, tree)

        return jax.tree.map(part, self.state, state, is_leaf=is_spec)


def split(devices: int) -> Layout:
    """A single run whose environments, replay and batches ``devices`` share."""
    return Layout(devices, STATE, ALIKE, SPLIT_SECOND)


def spread(devices: int) -> Layout:
    """Members of which each of ``devices`` has its own."""
    return Layout(devices, SPREAD, SPLIT, SPLIT)
