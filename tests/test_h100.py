"""Contracts 8 and 9: the chunk needs nothing but the device, and it is a bounded H100 program."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packaging.requirements import Requirement
from toy import Toy

from td3_brax.algorithm import build, replay, shards
from td3_brax.algorithm import loop as program
from td3_brax.algorithm.state import Replay, TrainState
from td3_brax.commands.bench import aot
from td3_brax.commands.bench.counts import compare, counts_of
from td3_brax.commands.bench.graphs import compile_and_count
from td3_brax.envs.state import Transition
from td3_brax.envs.tasks import gymnasium
from td3_brax.envs.tasks.brax import BraxTask
from td3_brax.names import GYMNASIUM_TASKS
from td3_brax.presets import resolve
from td3_brax.runs.memory import tree_bytes

BASELINE = Path(__file__).parent / "h100" / f"{jax.__version__}.json"
"""What `td3-brax bench --compile-for h100 --json` says with ``OPTIONS`` on this JAX, one of those that the
extra `aot` pins; where it was right to change, write it again."""
OPTIONS = {
    "num_envs": 64,
    "batch_size": 256,
    "hidden_sizes": (64, 64),
    "replay_capacity": 100_000,
    "report_every": 2048,
    "updates_per_env_step": 2 / 64,
}


@dataclass
class Chunk:
    """The program of the tests in this file, which is compiled once."""

    loop: program.Loop
    state: TrainState
    compiled: Any
    submissions: int | None
    counts: aot.Counts

    @property
    def replay_bytes(self) -> int:
        return tree_bytes(self.state.replay.rows)


@pytest.fixture(scope="module")
def chunk() -> Chunk:
    config = resolve(OPTIONS, "gpu")
    loop = build.build(config, BraxTask("ant"))
    state = jax.eval_shape(lambda: build.start(loop, [config]))
    compiled, submissions = compile_and_count(loop.train_chunk, (state,), donate_argnums=0)
    return Chunk(loop, state, compiled, submissions, aot.count(compiled))


def test_chunk_needs_the_device_alone(chunk: Chunk) -> None:
    assert chunk.counts.host == ()
    assert chunk.counts.unknown_loops == ()
    assert chunk.counts.conditionals == ()


def test_chunk_aliases_every_byte_of_the_state(chunk: Chunk) -> None:
    assert chunk.counts.alias_bytes == chunk.counts.argument_bytes == tree_bytes(chunk.state)


def test_chunk_never_rewrites_the_replay(chunk: Chunk) -> None:
    assert chunk.counts.large(chunk.replay_bytes // 10) == ()
    assert chunk.counts.temp_bytes < chunk.replay_bytes / 10


def test_every_operation_is_in_a_scope_or_beside_all(chunk: Chunk) -> None:
    scopes = chunk.counts.by_scope
    assert sum(scopes.values()) == chunk.counts.operations
    assert set(scopes) == {"collect", "learn", "refill", "other"}


def test_nothing_has_risen(chunk: Chunk) -> None:
    """By more than a tenth, of operations, submissions, workspace and more; the message says where."""
    stored = json.loads(BASELINE.read_text())
    assert stored["jax"] == jax.__version__
    now = counts_of(chunk.compiled, chunk.submissions, chunk.loop.schedule, chunk.replay_bytes)
    rises = compare(now, stored["programs"]["ant quick, 1 member"])
    assert rises == [], "\n".join(rises)


def test_every_jax_that_is_tested_has_a_baseline() -> None:
    """Those that the extra `aot` pins: the plugin that compiles for a GPU must be of JAX's own version."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    pins = map(Requirement, project["project"]["optional-dependencies"]["aot"])
    versions = {str(pin.specifier).removeprefix("==") for pin in pins if pin.name == "jax"}
    for version in versions:
        stored = json.loads((BASELINE.parent / f"{version}.json").read_text())
        assert stored["programs"].keys() == {"ant quick, 1 member", "bare brax Ant, a step"}
    assert jax.__version__ in versions


@pytest.mark.parametrize("name", ["ant", "InvertedPendulum-v5", "Hopper-v5"])
def test_a_step_of_fast_physics_is_one_kernel(name: str) -> None:
    """On MJX it is more than a thousand operations, of the Ant library calls that no CUDA graph takes."""
    task: Any = gymnasium.make(name, {}, "fast") if name in GYMNASIUM_TASKS else BraxTask(name)
    state, _ = jax.eval_shape(jax.vmap(task.reset), jax.random.split(jax.random.key(0), 1024))
    action = jax.ShapeDtypeStruct((1024, task.action_size), jnp.float32)
    counts = aot.count(aot.compile_for(jax.vmap(task.step), (state, action)))
    assert counts.by_kind["kernel"] == 1
    assert counts.operations <= 12
    assert (counts.custom_calls, counts.host, counts.unknown_loops, counts.conditionals) == ({}, (), (), ())


def test_a_gpu_that_is_too_old_for_the_kernel_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        jax, "local_devices", lambda: [SimpleNamespace(platform="gpu", compute_capability="7.5")]
    )
    task = gymnasium.make("InvertedPendulum-v5", {}, "fast")
    state, _ = jax.eval_shape(jax.vmap(task.reset), jax.random.split(jax.random.key(0), 64))
    action = jax.ShapeDtypeStruct((64, task.action_size), jnp.float32)
    counts = aot.count(aot.compile_for(jax.vmap(task.step), (state, action)))
    assert "kernel" not in counts.by_kind
    assert counts.operations > 100


@pytest.mark.slow
def test_chunk_on_the_cpu(chunk: Chunk) -> None:
    compiled = jax.jit(chunk.loop.train_chunk, donate_argnums=0).lower(chunk.state).compile()
    counts = aot.count(compiled)
    assert (counts.host, counts.unknown_loops, counts.conditionals) == ((), (), ())
    assert counts.alias_bytes == tree_bytes(chunk.state)
    assert counts.temp_bytes < chunk.replay_bytes / 2


def test_four_gpus_reduce_once_per_update() -> None:
    """Critics' gradients with each update; its own gradients and the targets' extremes with an actor's."""
    small = {"num_envs": 64, "batch_size": 256, "hidden_sizes": (64, 64), "replay_capacity": 8192}
    config = resolve(small | {"report_every": 2048, "updates_per_env_step": 4 / 64, "devices": 4}, "gpu")
    loop = build.build(config, Toy(30.0))
    state = jax.eval_shape(build.jit_init(loop, config))
    specs = shards.SPLIT_STATE, (shards.SPLIT_STATE, shards.REPLICATED)
    counts = aot.count(
        aot.compile_for(
            loop.train_chunk, (state,), donate_argnums=0, devices=4, in_specs=specs[:1], out_specs=specs[1]
        )
    )
    collectives = [o for o in counts.details if o.kind.startswith(("all-", "collective", "reduce-scatter"))]
    assert {o.kind for o in collectives} == {"all-reduce"}
    learn = sum(o.times for o in collectives if o.scope == "learn")
    updates = loop.schedule.total_updates
    assert learn == updates + 2 * updates / config.policy_delay
    # Two for the observation statistics of each vector step; what the chunk reports, once.
    rest = sum(o.times for o in collectives if o.scope != "learn")
    assert rest <= 2 * loop.schedule.vector_steps + 3
    assert (counts.host, counts.unknown_loops, counts.conditionals) == ((), (), ())
    assert counts.alias_bytes == tree_bytes(shards.split(4).share(state))


@pytest.mark.parametrize(
    ("preset", "num_envs", "report_every"),
    [
        ("paper", 25, 1000),
        ("quick", 4096, 16_384),
        pytest.param("paper", 1, 64, marks=pytest.mark.slow),
        pytest.param("author", 1, 64, marks=pytest.mark.slow),
    ],
)
def test_an_update_is_at_most_35_operations(preset: str, num_envs: int, report_every: int) -> None:
    """Of the critics, with its share of the actor's, what draws its batch and looks at its gradients."""
    config = resolve({"preset": preset, "num_envs": num_envs, "report_every": report_every}, "gpu")
    loop = build.build(config, Toy(30.0))
    state = jax.eval_shape(lambda: build.start(loop, [config]))
    counts = aot.count(aot.compile_for(loop.train_chunk, (state,), donate_argnums=0))
    assert counts.by_scope["learn"] / loop.schedule.total_updates <= 35
    assert counts.large(tree_bytes(state.replay.rows) // 2) == ()


def test_members_share_a_ring_that_is_never_turned_around() -> None:
    """A ring that the compiler lays out otherwise inside of the chunk is copied at its start and end."""
    small = {"num_envs": 64, "batch_size": 64, "hidden_sizes": (16, 16), "replay_capacity": 32_768}
    config = resolve(small | {"report_every": 1024, "updates_per_env_step": 2 / 64}, "gpu")
    loop = build.build(config, Toy(30.0))
    state = jax.eval_shape(lambda: build.start(loop, [config] * 10))
    counts = aot.count(aot.compile_for(loop.train_chunk, (state,), donate_argnums=0))
    ring = tree_bytes(state.replay.rows)
    assert counts.large(ring // 2) == ()
    assert counts.temp_bytes < ring / 2


# What follows shows that each of these would be noticed.

X = jax.ShapeDtypeStruct((256, 256), jnp.float32)


def _pure(x: jax.Array) -> jax.Array:
    return jax.pure_callback(lambda a: np.asarray(a), jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def _io(x: jax.Array) -> jax.Array:
    jax.experimental.io_callback(lambda a: None, None, x)
    return x + 1


def _print(x: jax.Array) -> jax.Array:
    jax.debug.print("{}", x[0, 0])
    return x + 1


@pytest.mark.parametrize(
    ("planted", "name"), [(_pure, "pure_callback"), (_io, "io_callback"), (_print, "debug_")]
)
def test_callbacks_are_caught(planted: Callable[[jax.Array], jax.Array], name: str) -> None:
    def looped(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (planted(c), None), x, length=3)[0]

    with pytest.raises(aot.AotError, match=f"calls the host: {name}"):
        aot.compile_for(looped, (X,))
    assert len(aot.count(jax.jit(looped).lower(X).compile()).host) == 1


def test_host_memory_is_caught() -> None:
    def leaves_a_copy_there(x: jax.Array) -> jax.Array:
        return jax.device_put(x @ x, jax.memory.Space.Host)

    assert len(aot.count(aot.compile_for(leaves_a_copy_there, (X,))).host) == 1


def test_missing_donation_is_caught() -> None:
    def add_one(state: Any) -> Any:
        return jax.tree.map(lambda x: x + 1, state)

    donated = aot.count(aot.compile_for(add_one, ((X, X),), donate_argnums=0))
    assert donated.alias_bytes == donated.argument_bytes == tree_bytes((X, X))
    assert aot.count(aot.compile_for(add_one, ((X, X),))).alias_bytes == 0


def _roll(ring: Replay) -> Replay:
    return replace(ring, rows=jnp.roll(ring.rows, 64, axis=0))


def _scale(ring: Replay) -> Replay:
    return replace(ring, rows=ring.rows * 0.5)


@pytest.mark.parametrize("rewrite", [None, _roll, _scale])
def test_rewriting_the_replay_is_caught(rewrite: Callable[[Replay], Replay] | None) -> None:
    def insert(ring: Replay, step: Transition) -> Replay:
        def body(ring: Replay, _: None) -> tuple[Replay, None]:
            ring = replay.add(ring, step)
            return (rewrite(ring) if rewrite else ring), None

        return jax.lax.scan(body, ring, length=8)[0]

    ring = jax.eval_shape(lambda: replay.init(6400, 1, 8, 2))
    obs, scalar = jnp.zeros((1, 64, 8)), jnp.zeros((1, 64))
    step = Transition(obs, jnp.zeros((1, 64, 2)), scalar, obs, scalar, scalar, scalar)
    counts = aot.count(aot.compile_for(insert, (ring, step), donate_argnums=0))
    rewrites = sum(operation.times for operation in counts.large(tree_bytes(ring.rows)))
    assert rewrites >= 8 if rewrite else rewrites == 0


def test_open_loops_and_branches_are_caught() -> None:
    def opened(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda c: c.sum() < 0, lambda c: c @ c + 1, x)

    def branched(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x.sum() > 0, lambda c: c @ c, lambda c: jnp.sort(c), x)

    assert len(aot.count(aot.compile_for(opened, (X,))).unknown_loops) == 1
    assert len(aot.count(aot.compile_for(branched, (X,))).conditionals) == 1


def test_counts_multiply_through_loops() -> None:
    def nest(x: jax.Array) -> jax.Array:
        def inner(c: jax.Array, _: None) -> tuple[jax.Array, None]:
            with jax.named_scope("learn"):
                return c @ c, None

        def outer(c: jax.Array, _: None) -> tuple[jax.Array, None]:
            with jax.named_scope("collect"):
                c = jnp.linalg.cholesky(c)
            return jax.lax.scan(inner, c, length=5)[0], None

        return jax.lax.scan(outer, x, length=3)[0]

    counts = aot.count(aot.compile_for(nest, (X,)))
    assert counts.by_kind["gemm"] == 15
    assert counts.by_scope["learn"] >= 15
    assert counts.custom_calls == {"cusolver_potrf_ffi": 3}


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def error() -> str:
        with pytest.raises(aot.AotError) as caught:
            aot.compile_for(jnp.sin, (X,))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def withdrawn(**_: object) -> None:
        raise NotImplementedError

    with monkeypatch.context() as patch:
        patch.setattr(aot.topologies, "get_topology_desc", withdrawn)
        assert "JAX_PLATFORMS=cpu" in error()
    with monkeypatch.context() as patch:
        patch.setattr(aot, "PACKAGES", ("jax-cuda13-plugin-that-is-not-there",))
        assert "td3-brax[aot]" in error()
    with pytest.raises(aot.AotError, match="must be one of h100"):
        aot.compile_for(jnp.sin, (X,), target="h1000")
