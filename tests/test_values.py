"""Contract 5: no target is lost, at any scale. Targets alone, and critics whose targets are their own."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from td3_brax.algorithm import build, values
from td3_brax.algorithm.learner import TD3
from td3_brax.algorithm.networks import Actor, Critic
from td3_brax.algorithm.state import Batch, Hyper, ValueScale
from td3_brax.examples.own_task import SwingUp
from td3_brax.presets import resolve

BATCH, OBS, ACTION, DELAY, BLOCKS = 64, 3, 1, 4, 20
HYPER = {
    "gamma": 0.97,
    "tau": 0.04,
    "actor_lr": 1e-3,
    "critic_lr": 2e-3,
    "lr_decay": 0.0,
    "exploration_noise": 0.0,
    "exploration_noise_spread": 0.0,
    "target_noise": 0.2,
    "target_noise_clip": 0.5,
    "eval_tau": 1.0,
}
TRUTH = 1 / (1 - HYPER["gamma"])
"""The value of a reward of 1 at every step."""


@functools.cache
def closed_loop(num_atoms: int):
    """``(rewards [T, BLOCKS * DELAY, BATCH], terminated, gamma) -> mean values [T]`` from a new critic on."""
    td3 = TD3(Actor((32, 32), ACTION), Critic((32, 32), 2, num_atoms), DELAY)

    @jax.jit
    def run(rewards: jax.Array, terminated: jax.Array, gamma: jax.Array) -> jax.Array:
        hyper = Hyper(
            **{name: jnp.float32(x) for name, x in (HYPER | {"gamma": gamma}).items()},
            warmup_env_steps=0,
            learn_from=0,
            total_env_steps=1,
        )

        def step(learner, xs):
            key, reward = xs
            shape = reward.shape
            keys = jax.random.split(key, 4)
            batches = Batch(
                obs=jax.random.normal(keys[0], (*shape, OBS)),
                action=jax.random.uniform(keys[1], (*shape, ACTION), minval=-1),
                reward=reward,
                next_obs=jax.random.normal(keys[2], (*shape, OBS)),
                terminated=jnp.broadcast_to(terminated, shape),
                steps=jnp.ones(shape),
            )
            noise = jax.random.normal(keys[3], batches.action.shape)
            learner, stats = td3.update_block(learner, hyper, batches, noise, jnp.bool_(True))
            return learner, stats.q_mean / stats.made

        keys = jax.random.split(jax.random.key(1), rewards.shape[0])
        return jax.lax.scan(step, td3.init(jax.random.key(0), OBS, ACTION), (keys, rewards))[1]

    return run


def values_of(
    reward: float, deviation: float, num_atoms: int = 51, scale: float = 1.0, later: float | None = None
) -> np.ndarray:
    """Mean values after every 80 updates of 16,000, over ``scale``, for rewards times ``scale``.

    After the first 80 updates the mean reward is ``later``.
    """
    drawn = np.random.default_rng(0).normal(reward, deviation, (200, BLOCKS * DELAY, BATCH))
    drawn[1:] += 0 if later is None else later - reward
    rewards = jnp.asarray(scale * drawn, jnp.float32)
    found = np.asarray(closed_loop(num_atoms)(rewards, jnp.float32(0), jnp.float32(0.97)), np.float64)
    return found / scale


@pytest.mark.parametrize("deviation", [0.0, 0.3, 5.0])
def test_values_start_at_what_is_true_for_equal_states_and_stay(deviation):
    """Values feed on themselves: a grid that moves with them must not carry them along."""
    found = values_of(1.0, deviation)
    assert found[-20:].mean() == pytest.approx(TRUTH, rel=0.03)
    assert (np.abs(found - TRUTH) < TRUTH * (0.03 + 0.02 * deviation)).all()


@pytest.mark.parametrize("deviation", [0.0, 0.3, 5.0])
def test_values_follow_rewards_that_change(deviation):
    """They rise as those of a plain critic do, and not above what is true."""
    plain, found = (values_of(0.0, deviation, num_atoms, later=1.0) for num_atoms in (1, 51))
    assert found[-20:].mean() == pytest.approx(TRUTH, rel=0.03)
    assert found.max() < TRUTH * (1.03 + 0.01 * deviation)
    # Where rewards do not vary at all, values rise sooner.
    assert (np.abs(found - plain) < (0.12 if deviation else 0.2) * TRUTH).all()


def test_the_size_of_rewards_changes_nothing():
    """Powers of two, so that not even rounding differs."""
    one = values_of(1.0, 5.0)
    for scale in (2.0**-10, 2.0**10, 2.0**30):
        np.testing.assert_array_equal(values_of(1.0, 5.0, scale=scale), one)


@pytest.mark.parametrize("offset", [-1.0, 1.0, 10.0])
def test_a_constant_added_to_rewards_moves_all_values_alike(offset):
    """From the first update on, so that nothing looks bad only because it was not tried yet."""
    found, moved = values_of(1.0, 0.3), values_of(1.0 + offset, 0.3)
    np.testing.assert_allclose(moved - offset * TRUTH, found, atol=0.03 * TRUTH)


@pytest.mark.parametrize(
    ("terminated", "gamma", "steps", "value"),
    [
        (0.0, 0.97, 1, 2 / 0.03),
        (0.25, 0.97, 1, 2 / (1 - 0.75 * 0.97)),
        (1.0, 0.97, 1, 2.0),
        (0.25, 0.97, 3, 2 / (1 - 0.75 * 0.97**3)),
        (0.0, 1.0, 1, 2000.0),  # a finite horizon instead of no end
    ],
)
def test_new_critics_give_the_value_of_the_first_batches(terminated, gamma, steps, value):
    """Compare with ``value = reward + discount * value`` by hand; it is the same in all states."""
    td3 = TD3(Actor((8,), ACTION), Critic((8,), 2, 51), DELAY)
    floats = {name: jnp.float32(x) for name, x in (HYPER | {"gamma": gamma}).items()}
    hyper = Hyper(**floats, warmup_env_steps=0, learn_from=0, total_env_steps=1)
    shape = (DELAY, BATCH)
    batches = Batch(
        obs=jnp.zeros((*shape, OBS)),
        action=jnp.zeros((*shape, ACTION)),
        reward=jnp.full(shape, 2.0),
        next_obs=jnp.zeros((*shape, OBS)),
        terminated=jnp.zeros(shape).at[:, : int(terminated * BATCH)].set(1),
        steps=jnp.full(shape, float(steps)),
    )
    learner = td3.start_values(td3.init(jax.random.key(0), OBS, ACTION), hyper, batches)
    target = td3.targets(learner, hyper, batches, jnp.zeros((*shape, ACTION)))
    assert learner.value_scale.center == pytest.approx(value, rel=1e-4)
    assert target.mean() == pytest.approx(value if gamma < 1 else value + 2, rel=1e-4)
    trained, _ = td3.update_block(learner, hyper, batches, jnp.zeros((*shape, ACTION)), jnp.bool_(True))
    again = td3.start_values(trained, hyper, replace(batches, reward=batches.reward + 5))
    jax.tree.map(np.testing.assert_array_equal, again, trained)


@pytest.mark.parametrize(("share", "error"), [(0.01, 0.1), (0.001, 0.25)])
def test_rare_targets_count(share, error):
    """Targets of 100 in one row of a hundred, or of a thousand: their mean is known soon, not only late."""
    drawn = np.random.default_rng(0).random((100, BLOCKS * DELAY, BATCH)) < share
    rewards = jnp.asarray(100.0 * drawn, jnp.float32)
    found = np.asarray(closed_loop(51)(rewards, jnp.float32(1), jnp.float32(0.97)))
    for start, stop in ((20, 60), (60, 100)):
        assert found[start:stop].mean() == pytest.approx(100 * drawn[start:stop].mean(), rel=error)


@settings(deadline=None, max_examples=60)
@given(
    bins=st.sampled_from([15, 51, 100]),
    center=st.floats(-1e3, 1e3),
    magnitude=st.integers(-12, 12),
    places=st.lists(st.floats(-100, 100), min_size=1, max_size=5),
)
def test_a_histogram_holds_its_target(bins, center, magnitude, places):
    """Its mean is the target, wherever in the grid that is; shares add up to 1."""
    spread = 10.0**magnitude
    scale = ValueScale(jnp.float32(center * spread), jnp.float32(spread))
    target = scale.center + scale.spread * jnp.array(places, jnp.float32)
    shares = values.histogram(target, scale, bins)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-4)
    out = jnp.log(jnp.maximum(shares, 1e-30)) + np.log1p(values.grid(bins) ** 2).astype(np.float32)
    error = np.abs(values.value(out, scale) - target) / spread
    assert (error <= 1e-3 * np.abs(places) + 1e-3 + 1e-6 * abs(center)).all()


@settings(deadline=None, max_examples=50)
@given(
    magnitudes=st.lists(st.integers(-9, 9), min_size=1, max_size=6),
    sign=st.sampled_from([-1, 1]),
    seed=st.integers(0, 1000),
)
def test_the_grid_holds_every_target_from_the_first_on(magnitudes, sign, seed):
    """Whatever their size is next, no target of a batch is beyond the grid when it is learnt."""
    rng = np.random.default_rng(seed)
    scale = ValueScale(jnp.zeros(()), jnp.zeros(()))
    for magnitude in magnitudes:
        target = jnp.asarray(sign * 10.0**magnitude * rng.exponential(size=32) ** 3, jnp.float32)
        scale = values.widen(scale, target.min(), target.max())
        distance = np.asarray(values.distance(target, scale))
        assert (np.abs(distance) <= values.REACH * 1.001).all()
        scale = values.update_scale(scale, distance.mean(), (distance**2).mean())
        assert np.isfinite([scale.center, scale.spread]).all()


@pytest.mark.parametrize(("center", "spread"), [(0, 1), (800, 30), (-3, 0.01), (1e5, 1e4), (7, 0)])
def test_the_grid_follows_the_targets_whatever_their_size(center, spread):
    def step(scale, key):
        target = center + spread * jax.random.normal(key, (256,))
        scale = values.widen(scale, target.min(), target.max())
        distance = values.distance(target, scale)
        return values.update_scale(scale, distance.mean(), jnp.square(distance).mean()), None

    scale, _ = jax.lax.scan(
        step, ValueScale(jnp.float32(0), jnp.float32(0)), jax.random.split(jax.random.key(0), 3000)
    )
    assert scale.center == pytest.approx(center, abs=0.05 * spread + 1e-5 * abs(center))
    assert scale.spread == pytest.approx(max(spread, 1e-3 * abs(center)), rel=0.1)


def test_a_policy_does_not_depend_on_the_size_of_rewards():
    """A whole run of `quick` on the example's task: bit for bit the same policy, returns times the scale."""
    options = {"env": "td3_brax.examples.own_task:SwingUp", "num_envs": 16, "hidden_sizes": (16, 16)}
    options |= {"batch_size": 32, "replay_capacity": 4096, "updates_per_env_step": 0.5, "time_limit": 50}
    options |= {"warmup_env_steps": 256, "report_every": 512, "devices": 1}
    config = resolve(options, "cpu")
    actors, returns = [], []
    for scale in (1.0, 1024.0):
        loop = build.build(config, SwingUp(scale))
        chunk = jax.jit(loop.train_chunk, donate_argnums=0)
        state = build.start(loop, [config])
        for _ in range(3):
            state, metrics = chunk(state)
        assert metrics.update.made[0] == 256
        actors.append(jax.tree.map(np.asarray, state.members.learner.actor_eval))
        returns.append(float(metrics.episodes.return_sum[0]))
    jax.tree.map(np.testing.assert_array_equal, *actors)
    assert returns[1] == 1024 * returns[0] > 0
