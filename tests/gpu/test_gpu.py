"""What only a real GPU can show. ``pytest -m gpu -n 0 tests/gpu``; the first ten minutes are in README.md.

With TD3_BRAX_GPU_TESTS_ANYWHERE=1 the same bodies run on a CPU, which checks the tests themselves.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td3_brax.algorithm import build
from td3_brax.algorithm import loop as program
from td3_brax.algorithm.apply import apply_by_kernels
from td3_brax.algorithm.networks import Critic
from td3_brax.algorithm.packing import pack, unpack
from td3_brax.envs.tasks.brax import BraxTask
from td3_brax.presets import resolve
from td3_brax.runs.memory import tree_bytes

pytestmark = pytest.mark.gpu

# What `td3-brax train --deterministic` asks of XLA.
DETERMINISTIC: dict[str, Any] = {"xla_gpu_deterministic_ops": True, "xla_gpu_autotune_level": 0}


@pytest.fixture(scope="module")
def device() -> jax.Device:
    found = jax.devices()[0]
    if found.platform == "cpu" and not os.environ.get("TD3_BRAX_GPU_TESTS_ANYWHERE"):
        pytest.skip("JAX finds no GPU here")
    return found


@pytest.fixture(scope="module")
def loop(device: jax.Device) -> program.Loop:
    config = resolve(
        {
            "num_envs": 64,
            "batch_size": 256,
            "replay_capacity": 100_000,
            "report_every": 2048,
            "updates_per_env_step": 2 / 64,
            "warmup_env_steps": 1024,
        },
        "gpu",
    )
    return build.build(config, BraxTask("ant"))


@pytest.fixture(scope="module")
def chunk(loop: program.Loop) -> Any:
    """One chunk with deterministic operations, compiled once."""
    options = DETERMINISTIC if jax.default_backend() != "cpu" else None
    shapes = jax.eval_shape(lambda: start(loop))
    return jax.jit(loop.train_chunk, donate_argnums=0).lower(shapes).compile(compiler_options=options)


def start(loop: program.Loop, seed: int = 0) -> Any:
    """The state at the start of a run."""
    config = resolve({"seed": seed, "warmup_env_steps": 1024}, "gpu")
    return jax.jit(lambda: build.start(loop, [config]))()


def on_host(tree: Any) -> list[np.ndarray]:
    """The leaves as NumPy arrays; keys as their numbers."""
    plain = jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves(plain)]


def test_jax_sees_a_gpu(device: jax.Device) -> None:
    if device.platform == "cpu":
        pytest.skip("run on a CPU")
    assert device.platform == "gpu"
    assert jax.default_backend() == "gpu"
    stats = device.memory_stats()
    assert stats is not None
    assert stats["bytes_limit"] > 4e9


def test_chunks_run_without_the_host(loop: program.Loop, chunk: Any) -> None:
    state = start(loop)
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, metrics = chunk(state)
        jax.block_until_ready(state)
    schedule = loop.schedule
    assert metrics.env_steps.tolist() == [3 * schedule.env_steps]
    assert metrics.updates.tolist()[0] > 0
    assert all(np.isfinite(leaf).all() for leaf in on_host(metrics))
    assert all(np.isfinite(leaf).all() for leaf in on_host(state.members.learner))


def test_same_seed_same_bits(loop: program.Loop, chunk: Any) -> None:
    def run(seed: int) -> list[np.ndarray]:
        state = start(loop, seed)
        for _ in range(3):
            state, metrics = chunk(state)
        return on_host((state, metrics))

    first, second, other = run(0), run(0), run(1)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_one_vector_step_as_on_a_cpu(loop: program.Loop, device: jax.Device) -> None:
    """In float32 proper: a GPU's default, TF32, keeps ten bits of a product's factors."""
    cpu = jax.devices("cpu")[0]

    def step(state: Any) -> Any:
        state, _ = loop.collect(loop.refill(state))
        # The ring itself would be much to compare: only the rows of this step.
        return state.members, jax.lax.slice_in_dim(state.replay.rows, 0, loop.env.num_envs)

    with jax.default_matmul_precision("highest"):
        state = start(loop)
        there = jax.jit(step)(jax.device_put(state, device))
        here = jax.jit(step)(jax.device_put(state, cpu))
    for a, b in zip(on_host(there), on_host(here), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    moved, expected = on_host(there[1])[0], on_host(here[1])[0]
    assert np.abs(moved - expected).mean() < 1e-5


@pytest.mark.parametrize("rows", [256, 4096])
def test_layers_by_kernels_are_those_of_xla(device: jax.Device, rows: int) -> None:
    critic = Critic((256, 256), 2, 51)
    keys = jax.random.split(jax.random.key(0), 3)
    obs, action = jax.random.normal(keys[0], (rows, 27)), jax.random.normal(keys[1], (rows, 8))
    params = pack(critic.init(keys[2], obs, action))

    def by_xla(params: jax.Array, *inputs: jax.Array) -> jax.Array:
        return critic.apply(unpack(critic, params, *inputs), *inputs)

    def made(function: Any) -> list[np.ndarray]:
        def loss(*args: jax.Array) -> jax.Array:
            return jnp.mean(function(*args) ** 2)

        with jax.default_matmul_precision("highest"):
            return on_host(jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, obs, action))

    by_kernels = partial(apply_by_kernels, critic, None, interpret=device.platform == "cpu")
    for got, wanted in zip(made(by_kernels), made(by_xla), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_memory_stays_flat(loop: program.Loop, chunk: Any, device: jax.Device) -> None:
    def live() -> int:
        stats = device.memory_stats()
        if stats is not None:
            return int(stats["bytes_in_use"])
        return sum(array.nbytes for array in jax.live_arrays() if not array.is_deleted())

    state = start(loop)
    state, metrics = chunk(state)
    jax.block_until_ready((state, metrics))
    before = live()
    for _ in range(5):
        state, metrics = chunk(state)
        jax.block_until_ready((state, metrics))
    assert live() - before < 1e6
    assert tree_bytes(state) > 1e7
