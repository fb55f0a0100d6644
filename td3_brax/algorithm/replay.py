"""The replay memory: a ring of packed rows in device memory (steps 1 and 4 of TD3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from td3_brax.algorithm.state import Batch, Replay
from td3_brax.envs.state import Transition

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
    # In the ring's own order of axes: the compiler would rather turn the whole ring around, twice per chunk.
    rows = with_layout_constraint(rows, Layout(major_to_minor=(0, 1, 2)))
    zero = jnp.zeros_like(replay.position)
    return Replay(
        rows=jax.lax.dynamic_update_slice(replay.rows, rows, (replay.position, zero, zero)),
        position=(replay.position + rows.shape[0]) % capacity,
        size=jnp.minimum(replay.size + rows.shape[0], capacity),
    )


def draw(keys: jax.Array, shape: tuple[int, ...], below: jax.Array) -> jax.Array:
    """Return whole numbers [M, *shape] from 0 to ``below`` - 1, as int32, for ``keys`` [M].

    They come from 32 random bits, so no number is more likely than another by more than ``below`` / 2^32. A
    uniform float32 has 23 bits: with 17 million rows half of them would never be drawn.

    Args:
        below: int32, broadcasts to [M, *shape].
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
    """4. ``count`` transitions per member, uniform with replacement over the valid rows.

    Rows that are not valid are rare; each draw tries up to four rows, and the few draws that find none
    take what the draw before found, or the oldest of what any found. So the cost depends on ``count`` alone.

    With ``n_step`` above 1 each goes on from its row through the rows of the same environment's next
    steps, until the episode ends, physics break, or nothing newer is stored (Sutton 1988; for
    off-policy replay as in Barth-Maron et al. 2018, equation 5).

    Args:
        keys: [M]
        num_envs: rows of one member per vector step.
        gamma: [M]
        unseen: [count], how many of the newest rows are to each draw as if they were not stored yet.
    Returns:
        leaves [M, count, ...]; valid transitions only, unless the ring holds next to none.
    """
    capacity, num_members, size = replay.rows.shape
    flat = replay.rows.reshape(capacity * num_members, size)
    member = jnp.arange(num_members)[:, None]

    def read(age: jax.Array) -> jax.Array:
        """Place in ``flat`` of rows [M, ...] by age: 0 is the newest."""
        own = member.reshape((num_members,) + (1,) * (age.ndim - 1))
        return (replay.position - 1 - age) % capacity * num_members + own

    held = jnp.maximum(replay.size[:, None, None] - unseen, 1)
    ages = unseen + draw(keys, (TRIES, count), held)
    valid = flat[read(ages), size - 1] > 0
    age = jnp.take_along_axis(ages, jnp.argmax(valid, axis=1, keepdims=True), axis=1)[:, 0]
    found = valid.any(axis=1)
    other = jnp.roll(age, 1, axis=1)
    oldest = jnp.where(valid, ages, 0).max(axis=(1, 2))[:, None]
    spare = jnp.where(jnp.roll(found, 1, axis=1) & (other >= unseen), other, oldest)
    age = jnp.where(found, age, spare)

    first = unpack(flat[read(age)], obs_size)
    reward, next_obs, terminated = first.reward, first.next_obs, first.terminated
    goes_on = (first.terminated + first.truncated) == 0
    steps = jnp.ones_like(reward)
    for k in range(1, n_step):
        later = unpack(flat[read(jnp.maximum(age - k * num_envs, 0))], obs_size)
        goes_on &= (age - unseen >= k * num_envs) & (later.valid > 0)
        reward += jnp.where(goes_on, gamma[:, None] ** k * later.reward, 0)
        next_obs = jnp.where(goes_on[..., None], later.next_obs, next_obs)
        terminated = jnp.where(goes_on, later.terminated, terminated)
        steps += goes_on
        goes_on &= (later.terminated + later.truncated) == 0
    return Batch(first.obs, first.action, reward, next_obs, terminated, steps)
