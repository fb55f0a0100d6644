"""The whole program on a task without physics: contracts 2, 3, 7 and 8, ratios and warm-up."""

from __future__ import annotations

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy

from td3_brax.algorithm import build
from td3_brax.algorithm import loop as loops
from td3_brax.algorithm.obs_stats import init_obs_stats, normalize, update_obs_stats
from td3_brax.algorithm.shards import split
from td3_brax.config import Config
from td3_brax.option import ConfigError
from td3_brax.runs.memory import check_program, check_state, tree_bytes

SMALL = {
    "env": "ant",  # a name the options know; the task itself is the toy
    "num_envs": 4,
    "hidden_sizes": (16, 16),
    "batch_size": 8,
    "replay_capacity": 1000,
    "total_env_steps": 2000,
    "report_every": 256,
    "time_limit": 20,
    "updates_per_env_step": 0.5,
    "warmup_env_steps": 256,
    "update_during_warmup": False,
    "normalize_obs": True,
}


def start(**changes):
    """The compiled chunk, the first state, and the loop."""
    config = Config(**(SMALL | changes))
    loop = build.build(config, Toy(30.0))
    state = build.start(loop, [config])
    return jax.jit(loop.train_chunk, donate_argnums=0), state, loop


def bits(tree):
    leaves = jax.tree.leaves(tree)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes() for x in leaves]


def is_key(x):
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def copied(tree):
    return jax.tree.map(jnp.copy, tree)


def test_same_seed_same_numbers_bit_for_bit():
    chunk, state, _ = start()
    first, metrics = chunk(copied(state))
    again, metrics_again = chunk(copied(state))
    assert bits(first) == bits(again)
    assert bits(metrics) == bits(metrics_again)
    chunk, other, _ = start(seed=1)
    assert bits(chunk(other)[0]) != bits(first)


def test_one_chunk_twice_traces_once():
    traces = []

    class Counting(Toy):
        def step(self, state, action):
            traces.append(1)
            return super().step(state, action)

    config = Config(**SMALL)
    loop = build.build(config, Counting(30.0))
    chunk = jax.jit(loop.train_chunk, donate_argnums=0)
    state = build.start(loop, [config])
    state, _ = chunk(state)
    traced = len(traces)
    for _ in range(3):
        state, _ = chunk(state)
    assert len(traces) == traced


@pytest.mark.parametrize(
    ("num_envs", "ratio", "delay"),
    [
        (4, 0.5, 2),
        (1, 0.25, 3),
        (4, 0.375, 2),
        pytest.param(1, 1.0, 2, marks=pytest.mark.slow),
        pytest.param(2, 3.0, 4, marks=pytest.mark.slow),
    ],
)
def test_update_ratio_holds_for_any_number_of_environments(num_envs, ratio, delay):
    chunk, state, loop = start(
        num_envs=num_envs,
        updates_per_env_step=ratio,
        policy_delay=delay,
        warmup_env_steps=0,
        update_during_warmup=True,
    )
    state, metrics = chunk(state)
    assert metrics.env_steps.tolist() == [loop.schedule.env_steps]
    assert metrics.updates.tolist() == [metrics.env_steps[0] * ratio]
    opt = state.members.learner
    assert opt.critic_opt.count.tolist() == metrics.updates.tolist()
    assert opt.actor_opt.count.tolist() == [metrics.updates[0] // delay]


@pytest.mark.parametrize(
    ("num_envs", "ratio", "delay", "turns"),
    [
        (1, 1.0, 2, (2,)),
        (4, 0.5, 4, (2,)),
        (2, 0.25, 3, (3,)),
        (2, 0.5, 1, (1,)),
        pytest.param(1, 3.0, 4, (2, 1, 1), marks=pytest.mark.slow),
    ],
)
def test_steps_and_updates_are_those_of_the_paper_s_order(monkeypatch, num_envs, ratio, delay, turns):
    """Some steps are made before updates that come first, but no step or update can tell.

    A step has the actor of all updates that come first. An update draws from the steps that come first, from
    the last of them too, and from none that comes after it.
    """
    _, state, loop = start(
        num_envs=num_envs,
        updates_per_env_step=ratio,
        policy_delay=delay,
        update_during_warmup=True,
        warmup_env_steps=10,
        report_every=96,
    )
    assert loop.schedule.turns == turns
    actors, draws, sample = [], [], loops.replay.sample

    class Spy(loops.Loop):
        def collect(self, state):
            count = state.members.learner.actor_opt.count
            jax.debug.callback(lambda count: actors.append(int(count[0])), count, ordered=True)
            return super().collect(state)

    def spy(*args):
        batch = sample(*args)
        jax.debug.callback(lambda action: draws.extend(action.reshape(-1, 8)), batch.action, ordered=True)
        return batch

    monkeypatch.setattr(loops.replay, "sample", spy)
    state, _ = jax.block_until_ready(jax.jit(Spy(**vars(loop)).train_chunk)(state))
    jax.effects_barrier()
    s = loop.schedule
    before = np.arange(s.vector_steps) // s.steps * s.updates
    assert actors == (before // delay).tolist()
    stored = (np.arange(s.total_updates) // s.updates + 1) * s.steps * num_envs
    actions = np.asarray(state.replay.rows)[: s.env_steps, 0, 4]
    drawn = np.asarray([[int(np.flatnonzero(actions == action)[0]) for action in draw] for draw in draws])
    assert len(drawn) == s.total_updates
    assert (drawn < stored[:, None]).all()
    assert (drawn >= stored[:, None] - s.steps * num_envs).any(axis=1).sum() > 4
    assert (drawn == 0).any()


def test_no_update_is_made_before_its_time():
    """Of updates that are made together, where the first of them is not to be made yet none is."""
    chunk, state, _ = start(num_envs=1, updates_per_env_step=1.0, warmup_env_steps=33, report_every=32)
    updates = []
    for _ in range(2):
        state, metrics = chunk(state)
        updates.append(int(metrics.updates[0]))
    assert updates == [0, 30]


def test_warm_up_acts_uniformly_and_then_greedily_with_noise():
    chunk, state, _ = start(exploration_noise=0.0, exploration_noise_spread=0.0)
    before = copied(state.members.learner)
    state, metrics = chunk(state)
    assert metrics.updates.tolist() == [0]
    jax.tree.map(np.testing.assert_array_equal, state.members.learner, before)
    rows = np.asarray(state.replay.rows)[:256, 0]
    actions = rows[rows[:, -1] > 0][:, 4]
    assert abs(actions.mean()) < 0.15
    assert actions.std() == pytest.approx(1 / 3**0.5, rel=0.1)
    state, metrics = chunk(state)
    assert metrics.updates.tolist() == [128]
    # The first action after the warm-up is the policy's own, on normalised observations.
    stats = state.members.obs_stats
    assert stats.count[0] == (np.asarray(state.replay.rows)[:, 0, -1] > 0).sum()
    seen = np.asarray(state.replay.rows)[:, 0, :2][np.asarray(state.replay.rows)[:, 0, -1] > 0]
    np.testing.assert_allclose(stats.mean[0], seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats.variance[0], seen.var(0), rtol=1e-3)


def test_reported_means_are_of_what_was_done():
    """However a run is cut into chunks, and though the first of their updates are not made."""
    changes = {"warmup_env_steps": 192, "update_during_warmup": False, "policy_delay": 2}
    chunk, state, _ = start(report_every=256, **changes)
    _, whole = chunk(copied(state))
    chunk, state, loop = start(report_every=64, **changes)
    parts = []
    for _ in range(4):
        state, metrics = chunk(state)
        parts.append(jax.tree.map(lambda x: float(x[0]), metrics.update))
    made = np.array([part.made for part in parts])
    assert made.tolist() == [0, 0, 0, loop.schedule.total_updates]
    assert whole.update.made[0] == made.sum()
    assert whole.update.actor_made[0] == made.sum() / 2
    for name in ("critic_loss", "actor_loss", "q_mean", "target_q_mean"):
        assert [getattr(part, name) for part in parts[:3]] == [0, 0, 0]
        assert float(getattr(whole.update, name)[0]) == pytest.approx(getattr(parts[3], name), rel=1e-4)


def test_a_single_environment_explores(monkeypatch):
    """The noise that `quick` spreads over environments, from none on, is in the middle for one alone."""
    given = []
    explore = loops.collect.explore

    def spied(action, hyper, env_steps, place, key):
        given.append(place)
        return explore(action, hyper, env_steps, place, key)

    monkeypatch.setattr(loops.collect, "explore", spied)
    for num_envs, places in ((1, [0.5]), (4, [0.125, 0.375, 0.625, 0.875])):
        config = Config(**(SMALL | {"num_envs": num_envs}))
        loop = build.build(config, Toy(30.0))
        loop.collect(build.start(loop, [config]))
        np.testing.assert_allclose(given.pop(), places)


def test_observation_statistics_count_and_move_in_the_longest_runs():
    """A float32 stops counting at 2^24, and sums in it lose what is added to them."""
    stats = init_obs_stats(1)
    batch, valid = jnp.full((8, 1), 5.0), jnp.ones(8).at[0].set(0)
    late = replace(stats, count=jnp.int32(2**31 - 8000), variance=jnp.ones(1))
    late, _ = jax.lax.scan(lambda s, _: (update_obs_stats(s, batch, valid), None), late, length=1000)
    assert late.count == 2**31 - 1000
    kept = (1 - 2.0**-20) ** 1000
    assert late.mean[0] == pytest.approx(5 * (1 - kept), rel=1e-3)
    assert late.variance[0] == pytest.approx(kept + 25 * kept * (1 - kept), rel=1e-3)
    odd = replace(stats, count=jnp.int32(2**24))
    assert update_obs_stats(odd, batch[:1], jnp.ones(1)).count == 2**24 + 1
    nothing = update_obs_stats(late, batch, jnp.zeros(8))
    jax.tree.map(np.testing.assert_array_equal, nothing, late)


@pytest.mark.parametrize("steps", [1000, 20_000])
def test_a_later_step_hardly_moves_the_scale_of_observations(steps):
    """What updates that wait for the actor's next one see of it: about 1/t of a deviation after t steps."""
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(3, 2, (steps, 6)), jnp.float32)

    def add(stats, row):
        return update_obs_stats(stats, row[None], jnp.ones(1)), None

    stats, _ = jax.lax.scan(add, init_obs_stats(6), obs)
    moved = [np.asarray(normalize(add(stats, row)[0], obs) - normalize(stats, obs)) for row in obs[-20:] + 1]
    assert 0 < np.sqrt(np.mean(np.square(moved))) < 2 / steps


def test_learning_rates_decay_to_nothing():
    chunk, state, _ = start(lr_decay=1.0, warmup_env_steps=0, total_env_steps=256)
    state, _ = chunk(state)
    assert state.members.env_steps.tolist() == [256]
    before = copied(state.members.learner)
    state, _ = chunk(state)
    jax.tree.map(np.testing.assert_array_equal, state.members.learner.actor, before.actor)
    jax.tree.map(np.testing.assert_array_equal, state.members.learner.critic, before.critic)
    assert (state.members.learner.critic_opt.count > before.critic_opt.count).all()


def test_episodes_are_cut_sooner_while_collecting_and_the_cut_bootstraps():
    chunk, state, loop = start(collect_time_limit=5)
    assert loop.schedule.blocks * loop.schedule.rounds * loop.schedule.steps <= 5  # a fresh state in time
    state, metrics = chunk(state)
    rows = np.asarray(state.replay.rows)[: loop.schedule.env_steps, 0]
    rows = rows[rows[:, -1] > 0]
    step, terminated, truncated = rows[:, 1], rows[:, -3], rows[:, -2]
    assert step.max() == 4
    assert ((step == 4) == ((truncated > 0) | ((terminated > 0) & (step == 4)))).all()
    assert not (terminated * truncated).any()
    assert truncated.sum() > terminated.sum() > 0
    assert metrics.episodes.length_sum[0] <= 5 * metrics.episodes.episodes[0]


@pytest.mark.parametrize("num_atoms", [1, 21])
def test_every_state_buffer_is_donated_and_aliased(num_atoms):
    chunk, state, _ = start(num_atoms=num_atoms)
    memory = chunk.lower(state).compile().memory_analysis()
    assert memory.alias_size_in_bytes == tree_bytes(state)


@pytest.mark.parametrize(
    ("num_envs", "ratio", "delay"),
    [(4, 0.5, 2), (1, 1.0, 1), (1, 1.0, 4), pytest.param(1, 3.0, 2, marks=pytest.mark.slow)],
)
def test_the_replay_is_never_copied(num_envs, ratio, delay):
    """What a block's last update reads is read before the next step is written, though no step needs it."""
    changes = {"num_envs": num_envs, "updates_per_env_step": ratio, "policy_delay": delay}
    chunk, state, _ = start(replay_capacity=1_000_000, **changes)
    assert chunk.lower(state).compile().memory_analysis().temp_size_in_bytes < tree_bytes(state.replay) / 10


def test_too_little_memory_is_said_before_compiling_and_before_allocating(monkeypatch):
    _, state, _ = start(replay_capacity=1_000_000)
    device = jax.devices()[0]
    check_state(state, split(1), device)
    there = tree_bytes(state) // 2
    monkeypatch.setattr("td3_brax.runs.memory.device_bytes", lambda _: there)
    with pytest.raises(ConfigError, match=r"--replay_capacity=1000000: .* GB") as caught:
        check_state(state, split(1), device)
    (suggested,) = (n for n in map(int, re.findall(r"\b\d{4,}\b", str(caught.value))) if n != 1_000_000)
    _, smaller, _ = start(replay_capacity=suggested)
    check_state(smaller, split(1), device)
    monkeypatch.setattr("td3_brax.runs.memory.device_bytes", lambda _: tree_bytes(state) + 10)
    with pytest.raises(ConfigError, match=r"\d GB .*num_envs"):
        check_program(state, 11, split(1), device)
    check_program(state, 10, split(1), device)
