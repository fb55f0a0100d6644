"""Replay memory: a ring of packed transitions in device memory (steps 1 and 4 of TD3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from td3_brax.algorithm.state import Batch, Replay
from td3_brax.envs.state import Transition

TRIES = 4
"""Rows that each draw tries, in search of a valid one."""
FLAGS = 4
"""Last columns of a row, after obs, next_obs and action: reward, terminated, truncated, valid."""


def row_size(obs_size: int, action_size: int) -> int:
    """Return the number of floats in a packed transition."""
    return 2 * obs_size + action_size + FLAGS


def init(capacity: int, num_members: int, obs_size: int, action_size: int) -> Replay:
    """Step 1: return an empty replay memory of transitions (s, s', a, r).

    Args:
        capacity: number of transitions per member, a whole number of vector steps.
    """
    return Replay(
        rows=jnp.zeros((capacity, num_members, row_size(obs_size, action_size)), jnp.float32),
        position=jnp.zeros((), jnp.int32),
        size=jnp.zeros(num_members, jnp.int32),
    )


def pack(transition: Transition) -> jax.Array:
    """Pack a transition with leading axes [...] into rows [..., R]."""
    t = transition
    flags = jnp.stack([t.reward, t.terminated, t.truncated, t.valid], axis=-1)
    return jnp.concatenate([t.obs, t.next_obs, t.action, flags], axis=-1)


def unpack(rows: jax.Array, obs_size: int) -> Transition:
    """Return the transition that rows [..., R] hold."""
    ends = [obs_size, 2 * obs_size, rows.shape[-1] - FLAGS]
    obs, next_obs, action, flags = jnp.split(rows, ends, axis=-1)
    reward, terminated, truncated, valid = (flags[..., i] for i in range(FLAGS))
    return Transition(obs, action, reward, next_obs, terminated, truncated, valid)


def add(replay: Replay, transition: Transition) -> Replay:
    """Write one vector step, leaves [M, N, ...], over the oldest N rows, as one slice and in place."""
    rows = pack(transition).swapaxes(0, 1)
    capacity, num_members, size = replay.rows.shape
    if rows.shape[1:] != (num_members, size) or capacity % rows.shape[0]:
        raise ValueError(f"vector step {rows.shape} does not fit a ring {replay.rows.shape}")
    # Keep the ring's order of axes. Otherwise the compiler transposes the whole ring, twice per chunk.
    rows = with_layout_constraint(rows, Layout(major_to_minor=(0, 1, 2)))
    zero = jnp.zeros_like(replay.position)
    return Replay(
        rows=jax.lax.dynamic_update_slice(replay.rows, rows, (replay.position, zero, zero)),
        position=(replay.position + rows.shape[0]) % capacity,
        size=jnp.minimum(replay.size + rows.shape[0], capacity),
    )


def draw(keys: jax.Array, shape: tuple[int, ...], below: jax.Array) -> jax.Array:
    """Return random integers [M, *shape], int32, from 0 to ``below`` - 1, for ``keys`` [M].

    Each comes from 32 random bits, so the relative difference of two integers' probabilities is at most about
    ``below`` / 2^32. A uniform float32 has only 23 random bits: half of 17 million rows would never be drawn.

    Args:
        below: int32, broadcastable to [M, *shape].
    """
    bits = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(keys)
    return (bits % below.astype(jnp.uint32)).astype(jnp.int32)


def sample(
    replay: Replay,
    keys: jax.Array,
    count: int,
    obs_size: int,
    num_envs: int,
    n_step: int,
    gamma: jax.Array,
    unseen: jax.Array | int = 0,
) -> Batch:
    """Step 4: draw ``count`` transitions per member, uniformly with replacement from the valid rows.

    Invalid rows are rare. Each draw tries ``TRIES`` rows. A draw that finds no valid row takes the row of the
    draw before it, or the oldest valid row that any draw found. So the cost depends on ``count`` alone.

    If ``n_step`` is above 1, each transition continues through the next steps of the same environment, until
    the episode ends, the physics break or no newer row is stored (Sutton 1988; for off-policy replay as in
    Barth-Maron et al. 2018, equation 5).

    Args:
        keys: [M], PRNG keys.
        count: number of transitions to draw per member.
        num_envs: number of rows per member and vector step.
        gamma: [M], discount.
        unseen: [count] or a scalar, number of the newest rows that a draw must treat as not stored yet.
    Returns:
        a batch with leaves [M, count, ...]. All transitions are valid, unless the ring holds almost none.
    """
    capacity, num_members, size = replay.rows.shape
    flat = replay.rows.reshape(capacity * num_members, size)
    member = jnp.arange(num_members)[:, None]

    def locate(age: jax.Array) -> jax.Array:
        """Return the indices into ``flat`` of rows with ages [M, ...]; the newest row has age 0."""
        members = member.reshape((num_members,) + (1,) * (age.ndim - 1))
        return (replay.position - 1 - age) % capacity * num_members + members

    stored = jnp.maximum(replay.size[:, None, None] - unseen, 1)
    ages = unseen + draw(keys, (TRIES, count), stored)
    valid = flat[locate(ages), size - 1] > 0
    age = jnp.take_along_axis(ages, jnp.argmax(valid, axis=1, keepdims=True), axis=1)[:, 0]
    found = valid.any(axis=1)
    previous = jnp.roll(age, 1, axis=1)
    oldest = jnp.where(valid, ages, 0).max(axis=(1, 2))[:, None]
    substitute = jnp.where(jnp.roll(found, 1, axis=1) & (previous >= unseen), previous, oldest)
    age = jnp.where(found, age, substitute)

    first = unpack(flat[locate(age)], obs_size)
    reward, next_obs, terminated = first.reward, first.next_obs, first.terminated
    continues = (first.terminated + first.truncated) == 0
    steps = jnp.ones_like(reward)
    for k in range(1, n_step):
        later = unpack(flat[locate(jnp.maximum(age - k * num_envs, 0))], obs_size)
        continues &= (age - unseen >= k * num_envs) & (later.valid > 0)
        reward += jnp.where(continues, gamma[:, None] ** k * later.reward, 0)
        next_obs = jnp.where(continues[..., None], later.next_obs, next_obs)
        terminated = jnp.where(continues, later.terminated, terminated)
        steps += continues
        continues &= (later.terminated + later.truncated) == 0
    return Batch(first.obs, first.action, reward, next_obs, terminated, steps)
