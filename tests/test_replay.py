"""Contract 3 (and the replay's part of 5): the ring equals a plain list."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from td3_brax.algorithm import replay
from td3_brax.envs.state import Transition

OBS, ACTION = 3, 2


def vector_step(serial: int, members: int, num_envs: int, rng: np.random.Generator, invalid: float):
    """Transitions that each carry their own number; some not valid."""
    shape = (members, num_envs)
    valid = (rng.random(shape) >= invalid).astype(np.float32)
    number = (serial + np.arange(members * num_envs).reshape(shape)) * valid
    flags = {name: (rng.random(shape) < 0.3) * valid for name in ("terminated", "truncated")}
    return Transition(
        obs=np.repeat(number[..., None], OBS, -1).astype(np.float32),
        action=np.repeat(-number[..., None], ACTION, -1).astype(np.float32),
        reward=(number + 0.25 * valid).astype(np.float32),
        next_obs=np.repeat((number + 0.5 * valid)[..., None], OBS, -1).astype(np.float32),
        valid=valid,
        **{k: v.astype(np.float32) for k, v in flags.items()},
    )


add = jax.jit(replay.add, donate_argnums=0)
sample = jax.jit(replay.sample, static_argnums=(2, 3, 4, 5))
GAMMA = 0.9


def n_step_of(rows: list[np.ndarray], start: int, num_envs: int, n_step: int) -> list[float]:
    """What a sample that begins at row ``start`` of a plain list must be."""
    reward, steps, i = 0.0, 0, start
    while True:
        number, (r, terminated, truncated, _) = rows[i][0], rows[i][-4:]
        reward += GAMMA**steps * r
        steps += 1
        after = i + num_envs
        if terminated or truncated or steps == n_step or after >= len(rows) or not rows[after][-1]:
            next_number = number + 0.5
            return [rows[start][0], -rows[start][0], reward, next_number, terminated, steps]
        i = after


@settings(max_examples=30, deadline=None)
@given(
    members=st.sampled_from([1, 3]),
    num_envs=st.sampled_from([1, 4]),
    vector_capacity=st.sampled_from([1, 5]),
    ops=st.lists(st.sampled_from(["add", "add", "sample"]), min_size=1, max_size=25),
    invalid=st.sampled_from([0.0, 0.2]),
    n_step=st.sampled_from([1, 3]),
    later=st.integers(0, 4),
    seed=st.integers(0, 10_000),
)
def test_ring_equals_a_list(members, num_envs, vector_capacity, ops, invalid, n_step, later, seed):
    """Half of the draws are made as if the ``later`` newest vector steps were not stored yet."""
    rng = np.random.default_rng(seed)
    capacity = vector_capacity * num_envs
    ring = replay.init(capacity, members, OBS, ACTION)
    model: list[list[np.ndarray]] = [[] for _ in range(members)]
    serial = 1
    for op in ops:
        if op == "add":
            step = vector_step(serial, members, num_envs, rng, invalid)
            serial += members * num_envs
            ring = add(ring, step)
            rows = np.asarray(replay.pack(step))
            for m in range(members):
                model[m] = (model[m] + list(rows[m]))[-capacity:]
            assert ring.size.tolist() == [len(model[0])] * members
        elif all(any(row[-1] for row in mod[: max(len(mod) - later * num_envs, 0)]) for mod in model):
            keys = jax.random.split(jax.random.key(seed + serial), members)
            unseen = np.repeat([later * num_envs, 0], 32)
            gamma = jnp.full(members, GAMMA)
            got = jax.device_get(sample(ring, keys, 64, OBS, num_envs, n_step, gamma, unseen))
            for m in range(members):
                for j in range(64):
                    seen = model[m][: len(model[m]) - unseen[j]]
                    starts = {row[0]: i for i, row in enumerate(seen) if row[-1]}
                    want = n_step_of(seen, starts[float(got.obs[m, j, 0])], num_envs, n_step)
                    b = jax.tree.map(lambda x, m=m, j=j: x[m, j], got)
                    assert len({*b.obs.tolist()}) == len({*b.next_obs.tolist()}) == 1
                    have = [b.obs[0], b.action[0], b.reward, b.next_obs[0], b.terminated, b.steps]
                    np.testing.assert_allclose(have, want, rtol=1e-5)
    # What is stored is exactly the list, oldest first.
    for m in range(members):
        held = len(model[m])
        rows = np.roll(np.asarray(ring.rows)[:, m], -int(ring.position), axis=0)[capacity - held :]
        wanted = np.asarray(model[m], np.float32).reshape(held, replay.row_size(OBS, ACTION))
        np.testing.assert_array_equal(rows, wanted)


def test_sampling_is_uniform_over_valid_rows():
    members, num_envs = 2, 50
    ring = replay.init(4 * num_envs, members, OBS, ACTION)
    rng = np.random.default_rng(0)
    for i in range(6):  # wraps
        ring = add(ring, vector_step(1 + i * 100, members, num_envs, rng, 0.2))
    draws = 200_000
    got = sample(ring, jax.random.split(jax.random.key(1), members), draws, OBS, num_envs, 1, jnp.ones(2))
    for m in range(members):
        rows = np.asarray(ring.rows)[:, m]
        numbers = rows[rows[:, -1] > 0, 0]
        found, counts = np.unique(np.asarray(got.obs[m, :, 0]), return_counts=True)
        assert found.tolist() == sorted(numbers.tolist())
        expected = draws / len(numbers)
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        freedom = len(numbers) - 1
        assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)


def test_cost_of_sampling_does_not_depend_on_the_capacity():
    def flops_and_workspace(capacity: int) -> tuple[float, int]:
        ring = jax.eval_shape(lambda: replay.init(capacity, 1, OBS, ACTION))
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        compiled = sample.lower(ring, keys, 256, OBS, 8, 1, jnp.ones(1)).compile()
        return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes

    assert flops_and_workspace(1_000) == flops_and_workspace(10_000_000)


def test_insertion_writes_one_slice_in_place():
    ring = jax.eval_shape(lambda: replay.init(1_000_000, 1, OBS, ACTION))
    step = jax.tree.map(jnp.asarray, vector_step(1, 1, 8, np.random.default_rng(0), 0.0))
    compiled = jax.jit(replay.add, donate_argnums=0).lower(ring, step).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 100_000
    assert memory.alias_size_in_bytes >= ring.rows.size * 4


@pytest.mark.parametrize("below", [4_000_000, 20_000_000])
def test_large_rings_are_drawn_from_uniformly(below):
    """Floats of 23 bits draw some of 4 million rows 3 times for others' 2, and 11 of 20 million never."""
    draws = replay.draw(jax.random.split(jax.random.key(0), 1), (1 << 22,), jnp.int32(below))
    counts = np.bincount(np.asarray(draws[0]), minlength=below)
    expected = draws.size / below
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert len(counts) == below
    assert abs(chi_squared / below - 1) < 5 * np.sqrt(2 / below)
