"""A run over several devices: what they compute together is what one would."""

from __future__ import annotations

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import SMALL, bits
from toy import Toy

from td3_brax.algorithm import build, shards
from td3_brax.algorithm import loop as loops
from td3_brax.algorithm.learner import TD3
from td3_brax.algorithm.networks import Actor, Critic
from td3_brax.algorithm.obs_stats import init_obs_stats, update_obs_stats
from td3_brax.algorithm.population import make_hyper
from td3_brax.algorithm.state import Batch
from td3_brax.config import Config
from td3_brax.option import ConfigError
from td3_brax.runs.memory import tree_bytes

START = SMALL | {"warmup_env_steps": 0, "num_envs": 8, "exploration_noise_spread": 0.3}


def make(**changes):
    config = Config(**(START | changes))
    return config, build.build(config, Toy(30.0))


def as_double(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)


def apart(state, count):
    """The shards of a state, along a new first axis where they differ; and which leaves those are."""

    def part(spec, tree):
        def leaf(x):
            axis = tuple(spec).index(shards.AXIS)
            sizes = (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
            return jnp.moveaxis(x.reshape(sizes), axis, 0)

        return jax.tree.map(leaf, tree) if shards.AXIS in tuple(spec) else tree

    axes = jax.tree.map(
        lambda spec: 0 if shards.AXIS in tuple(spec) else None, shards.SPLIT_STATE, is_leaf=shards.is_spec
    )
    return jax.tree.map(part, shards.SPLIT_STATE, state, is_leaf=shards.is_spec), axes


@pytest.mark.parametrize(("count", "num_atoms"), [(2, 1), pytest.param(4, 21, marks=pytest.mark.slow)])
def test_shards_on_devices_are_shards_on_one_device(count, num_atoms):
    """Eight vector steps and 32 updates, in x64 to 1e-9."""
    with jax.enable_x64(True):
        config, loop = make(devices=count, num_atoms=num_atoms)

        def run(state):
            state = loop.refill(as_double(state))

            def round_of_updates(state, _):
                state, _ = loop.collect(state)
                return loop.learn(state, 1, 0)

            return jax.lax.scan(round_of_updates, state, length=8)

        start = build.jit_init(loop, config)()
        spread, _ = shards.jit(run, count, (shards.SPLIT_STATE,), (shards.SPLIT_STATE, shards.SPLIT))(start)
        parts, axes = apart(jax.device_get(start), count)
        one_by_one = jax.vmap(run, in_axes=(axes,), out_axes=0, axis_name=shards.AXIS)
        together, _ = jax.jit(one_by_one)(parts)

        assert spread.members.updates.tolist() == [32]
        expected, _ = apart(jax.device_get(spread), count)
        for i in range(count):
            ours = jax.tree.map(lambda x, i=i: x[i], together)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9, rtol=0),
                (ours.members.learner, ours.members.obs_stats),
                (expected.members.learner, expected.members.obs_stats),
            )
            np.testing.assert_allclose(ours.replay.rows, expected.replay.rows[i], atol=1e-9, rtol=0)


@pytest.mark.parametrize("count", [2, 4])
def test_the_update_is_that_of_the_whole_batch(count):
    """Gradients averaged over the shards' parts of a batch: TD3 is TD3, over 50 updates, to 1e-9."""
    with jax.enable_x64(True):
        whole = TD3(Actor((16, 16), 2), Critic((16, 16), 2), 2)
        learner = as_double(whole.init(jax.random.key(0), 3, 2))
        hyper = as_double(make_hyper(Config()))
        rng = np.random.default_rng(0)
        normal = lambda *shape: jnp.asarray(rng.normal(size=(50, 8, *shape)))  # noqa: E731
        batches = Batch(normal(3), jnp.tanh(normal(2)), normal(), normal(3), normal() > 1, 1 + 0 * normal())
        noise = normal(2)
        alone, stats = whole.update_block(learner, hyper, batches, noise, jnp.bool_(True))

        split = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(50, count, 8 // count, *x.shape[2:]), 1, 0), (batches, noise)
        )
        update = replace(whole, shards=count).update_block
        shared, parts = jax.vmap(
            lambda b, n: update(learner, hyper, b, n, jnp.bool_(True)), axis_name=shards.AXIS
        )(*split)
        for i in range(count):
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-9, rtol=0), shared, alone
            )
        np.testing.assert_allclose(parts.critic_loss.mean(), stats.critic_loss, rtol=1e-9)


def test_observation_statistics_are_those_of_all_shards():
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(5, 2, (3, 4, 6, 2)), jnp.float32)
    valid = jnp.asarray(rng.random((3, 4, 6)) < 0.8, jnp.float32)
    alone, shared = init_obs_stats(2), jax.tree.map(lambda x: jnp.stack([x] * 4), init_obs_stats(2))
    for o, v in zip(obs, valid, strict=True):
        alone = update_obs_stats(alone, o.reshape(-1, 2), v.reshape(-1))
        shared = jax.vmap(lambda s, o, v: update_obs_stats(s, o, v, 4), axis_name=shards.AXIS)(shared, o, v)
    for i in range(4):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5), shared, alone)


def test_a_whole_chunk_over_devices():
    """Each shard explores by itself, all count together, the state stays where it is, and it repeats."""
    config, loop = make(devices=4, exploration_noise=0.0, report_every=512, warmup_env_steps=64)
    start = build.jit_init(loop, config)
    chunk = build.jit_chunk(loop)
    state, metrics = chunk(start())
    assert metrics.env_steps.tolist() == [512]
    assert metrics.updates.tolist() == [(512 - 64) * config.updates_per_env_step]
    assert state.replay.rows.sharding.spec == shards.SPLIT
    assert state.replay.size.tolist() == [512 / 4]
    rows = np.asarray(state.replay.rows)[:, 0].reshape(4, -1, state.replay.rows.shape[-1])[:, : 512 // 4]
    valid = rows[..., -1] > 0
    # During the warm-up no two shards act alike, nor start alike.
    assert len(np.unique(rows[:, :16, 4])) == 4 * 16
    assert state.members.obs_stats.count[0] == valid.sum()
    assert metrics.episodes.episodes[0] == (rows[..., -3] + rows[..., -2]).sum()
    again, _ = chunk(start())
    assert bits(again) == bits(state)


def test_places_of_environments_go_on_from_shard_to_shard(monkeypatch):
    places = {}
    explore = loops.collect.explore

    def spied(action, hyper, env_steps, place, key):
        jax.debug.callback(
            lambda i, p: places.__setitem__(int(i), np.asarray(p)), shards.shard_index(4), place
        )
        return explore(action, hyper, env_steps, place, key)

    monkeypatch.setattr(loops.collect, "explore", spied)
    config, loop = make(devices=4, report_every=64)
    jax.block_until_ready(build.jit_chunk(loop)(build.jit_init(loop, config)()))
    jax.effects_barrier()
    np.testing.assert_allclose(
        np.concatenate([places[i] for i in range(4)]), (np.arange(8) + 0.5) / 8, rtol=1e-6
    )


def test_one_reduction_per_update_and_every_buffer_donated():
    config, loop = make(devices=2, report_every=64, num_atoms=21, policy_delay=2)
    shapes = jax.eval_shape(build.jit_init(loop, config))
    compiled = build.jit_chunk(loop).lower(shapes).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == tree_bytes(shards.split(2).share(shapes))
    text = compiled.as_text()
    reductions = re.findall(r"\ball-reduce(?:-start)?\(", text)
    # A scan over two updates of the critics and one of the actor; two for each vector step's observation
    # statistics; one for the chunk's averages and one for each dtype of its episode sums.
    assert 3 <= len(reductions) <= 3 + 2 + 3
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f"{other}(" not in text


@pytest.mark.parametrize(
    ("changes", "named"), [({"num_envs": 6}, "num_envs"), ({"batch_size": 6}, "batch_size")]
)
def test_parts_must_be_equal(changes, named):
    with pytest.raises(ConfigError, match=f"--devices=4: .*--{named}=6"):
        make(devices=4, **changes)


def test_more_shards_than_devices_are_refused():
    """JAX would run the program on what there is, each device with its share: a part of the work."""
    with pytest.raises(ValueError, match=r"\b99\b.*\b8\b"):
        shards.jit(lambda: jnp.zeros(()), 99)
