"""Sharding over several devices: one run is split over them, or each device has whole members.

A shard is the part of a run on one device: N environments, a replay of C rows, B transitions of each batch.
The other modules see one shard. Only the functions of this module communicate between shards.
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
"""Most critics of an ensemble that a CPU computes one by one. A leaf whose first axis is no longer than this
counts as theirs."""
Tree = TypeVar("Tree")

REPLICATED: Any = PartitionSpec()
SPLIT: Any = PartitionSpec(AXIS)
SPLIT_SECOND: Any = PartitionSpec(None, AXIS)
SPLIT_STATE = TrainState(
    members=Member(
        env=SPLIT_SECOND,
        learner=REPLICATED,
        obs_stats=REPLICATED,
        hyper=REPLICATED,
        key=REPLICATED,
        env_steps=REPLICATED,
        updates=REPLICATED,
    ),
    replay=Replay(rows=SPLIT, position=REPLICATED, size=REPLICATED),
)
"""Partition of a :class:`TrainState` over devices that share a run."""
SPREAD_STATE = TrainState(
    members=Member(
        env=SPLIT,
        learner=SPLIT,
        obs_stats=SPLIT,
        hyper=SPLIT,
        key=SPLIT,
        env_steps=SPLIT,
        updates=SPLIT,
    ),
    replay=Replay(rows=SPLIT_SECOND, position=REPLICATED, size=SPLIT),
)
"""Partition of a :class:`TrainState` over devices that each have whole members and do not communicate."""


def shard_sum(tree: Tree, shards: int) -> Tree:
    """Sum each leaf over the shards."""
    return tree if shards == 1 else jax.lax.psum(tree, AXIS)


def shard_max(x: jax.Array, shards: int) -> jax.Array:
    """Return the elementwise maximum of ``x`` over the shards."""
    return x if shards == 1 else jax.lax.pmax(x, AXIS)


def shard_mean(tree: Tree, shards: int) -> Tree:
    """Average each float leaf over the shards, with one reduction for the whole tree."""
    if shards == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))
    # A concatenation would be slow on a CPU: XLA computes each of its elements in a loop with branches.
    flat = jnp.zeros(ends[-1], jnp.result_type(*leaves))
    for leaf, end in zip(leaves, ends, strict=True):
        # Write the leaves of twin critics one by one, without stacking them first.
        rows = list(leaf) if leaf.ndim > 1 and leaf.shape[0] <= TWINS else [leaf]
        for i, row in enumerate(rows):
            flat = jax.lax.dynamic_update_slice(flat, row.ravel(), (end - leaf.size + i * row.size,))
    parts = jnp.split(jax.lax.psum(flat, AXIS) / shards, ends[:-1])
    return jax.tree.unflatten(
        structure, [x.reshape(leaf.shape) for x, leaf in zip(parts, leaves, strict=True)]
    )


def shard_index(shards: int) -> jax.Array:
    """Return the index [] of this shard, int32."""
    return jnp.int32(0) if shards == 1 else jax.lax.axis_index(AXIS)


def shard_key(key: jax.Array, shards: int) -> jax.Array:
    """Derive this shard's key from a key that all shards share."""
    return key if shards == 1 else jax.random.fold_in(key, shard_index(shards))


def jit(
    function: Callable[..., Any],
    shards: int,
    in_specs: Any = REPLICATED,
    out_specs: Any = REPLICATED,
    donate_argnums: tuple[int, ...] = (),
    devices: Sequence[Any] | None = None,
) -> Any:
    """Jit ``function``, which sees one shard, over the first ``shards`` devices.

    Args:
        in_specs: partition of the arguments, as for ``jax.shard_map``; so is ``out_specs`` of the results.
        devices: devices to use instead of JAX's, such as those of a machine that is only described.
    Raises:
        ValueError: there are fewer devices than shards; JAX would run on those without an error.
    """
    if shards == 1 and devices is None:
        return jax.jit(function, donate_argnums=donate_argnums)
    available = devices or jax.devices()
    if len(available) < shards:
        raise ValueError(f"{shards} shards on {len(available)} devices")
    mesh = Mesh(np.array(available[:shards]), (AXIS,), axis_types=(AxisType.Auto,))

    def shardings(specs: Any) -> Any:
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)

    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False),
        in_shardings=shardings(in_specs),
        out_shardings=shardings(out_specs),
        donate_argnums=donate_argnums,
    )


def is_spec(x: object) -> bool:
    """Return whether ``x`` is the partition spec of an array."""
    return isinstance(x, PartitionSpec)


@dataclass(frozen=True)
class Layout:
    """Partition of a program's arrays over the first ``devices`` devices."""

    devices: int
    state: TrainState
    """Partition spec of each leaf, or subtree, of the program's state."""
    members: Any
    """Partition spec of arrays [M, ...]."""
    episodes: Any
    """Partition spec of arrays [M, episodes, ...], which evaluations use."""

    def share(self, state: TrainState) -> TrainState:
        """Return the shapes of the part of ``state`` on one device."""

        def part(spec: PartitionSpec, tree: Any) -> Any:
            def leaf(x: Any) -> jax.ShapeDtypeStruct:
                sizes = [n // self.devices if axis == AXIS else n for n, axis in zip_longest(x.shape, spec)]
                return jax.ShapeDtypeStruct(tuple(sizes), x.dtype)

            return jax.tree.map(leaf, tree)

        return jax.tree.map(part, self.state, state, is_leaf=is_spec)


def split(devices: int) -> Layout:
    """Return the layout of one run whose environments, replay and batches ``devices`` share."""
    return Layout(devices, SPLIT_STATE, REPLICATED, SPLIT_SECOND)


def spread(devices: int) -> Layout:
    """Return the layout of a program in which each of ``devices`` has whole members."""
    return Layout(devices, SPREAD_STATE, SPLIT, SPLIT)
