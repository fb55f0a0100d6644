"""The replay memory: a ring of packed rows in device memory (steps 1 and 4 of TD3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from td3_brax.state import Replay, Transition

TRIES = 4
FLAGS = 4
"""Reward, terminated, truncated, valid: the last columns of a row, after obs, next_obs and action."""


def row_size(obs_size: int, action_size: int) -> int:
    """Floats per transition."""
    return 2 * obs_size + action_size + FLAGS


def init(capacity: int, num_members: int, obs_size: int, action_size: int) -> Replay:
    """1. Replay memory of transitions (s, s', a, r), empty.

    Args:
        capacity: transitions per member; a whole number of vector steps.
    """
    return Replay(
        rows=jnp.zeros((capacity, num_members, row_size(obs_size, action_size)), jnp.float32),
        position=jnp.zeros((), jnp.int32),
        size=jnp.zeros(num_members, jnp.int32),
    )


def pack(transition: Transition) -> jax.Array:
    """Rows [..., R] of a transition with leading axes [...]."""
    t = transition
    flags = jnp.stack([t.reward, t.terminated, t.truncated, t.valid], axis=-1)
    return jnp.concatenate([t.obs, t.next_obs, t.action, flags], axis=-1)


def unpack(rows: jax.Array, obs_size: int) -> Transition:
    """The transition whose rows [..., R] these are."""
    ends = [obs_size, 2 * obs_size, rows.shape[-1] - FLAGS]
    obs, next_obs, action, flags = jnp.split(rows, ends, axis=-1)
    reward, terminated, truncated, valid = (flags[..., i] for i in range(FLAGS))
    return Transition(obs, action, reward, next_obs, terminated, truncated, valid)


def add(replay: Replay, transition: Transition) -> Replay:
    """Write one vector step, leaves [M, N, ...], over the oldest N rows: one slice, in place."""
    rows = pack(transition).swapaxes(0, 1)
    capacity, num_members, size = replay.rows.shape
    if rows.shape[1:] != (num_members, size) or capacity % rows.shape[0]:
        raise ValueError(f"vector step {rows.shape} does not fit a ring {replay.rows.shape}")
    return Replay(
        rows=jax.lax.dynamic_update_slice(replay.rows, rows, (replay.position, 0, 0)),
        position=(replay.position + rows.shape[0]) % capacity,
        size=jnp.minimum(replay.size + rows.shape[0], capacity),
    )


def sample(replay: Replay, keys: jax.Array, count: int, obs_size: int) -> Transition:
    """4. ``count`` transitions per member, uniform with replacement over the valid rows.

    Rows that are not valid are rare; each draw tries up to four rows, and the few draws that find none
    take the first one found by another draw of the same member. So the cost depends on ``count`` alone.

    Args:
        keys: [M]
    Returns:
        leaves [M, count, ...]; all valid, unless the ring holds next to nothing that is.
    """
    capacity, num_members, size = replay.rows.shape
    flat = replay.rows.reshape(capacity * num_members, size)
    member = jnp.arange(num_members)

    draws = jax.vmap(lambda key: jax.random.uniform(key, (TRIES, count)))(keys)
    held = jnp.maximum(replay.size, 1)[:, None, None]
    age = jnp.minimum((draws * held).astype(jnp.int32), held - 1)
    index = (replay.position - 1 - age) % capacity * num_members + member[:, None, None]
    valid = flat[index, size - 1] > 0
    first = jnp.argmax(valid, axis=1, keepdims=True)
    chosen = jnp.take_along_axis(index, first, axis=1)[:, 0]
    found = valid.any(axis=1)
    spare = jnp.take_along_axis(chosen, jnp.argmax(found, axis=1, keepdims=True), axis=1)
    return unpack(flat[jnp.where(found, chosen, spare)], obs_size)
