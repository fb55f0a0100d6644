"""Learning itself, small but for real: a task that a broken learner does not learn."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from td3_brax.algorithm import build
from td3_brax.algorithm.evaluate import greedy_returns
from td3_brax.algorithm.learner import TD3
from td3_brax.config import Config
from td3_brax.envs.tasks.brax import BraxTask
from td3_brax.envs.vector import VectorEnv

CONFIG = Config(
    env="inverted_pendulum",
    backend="generalized",
    num_envs=32,
    time_limit=50,
    collect_time_limit=25,
    total_env_steps=64_000,
    updates_per_env_step=0.5,
    batch_size=128,
    hidden_sizes=(64, 64),
    replay_capacity=64_000,
    warmup_env_steps=2000,
    gamma=0.95,
    tau=0.01,
    actor_lr=3e-4,
    exploration_noise=0.2,
    report_every=16_000,
)
HORIZON = 1 / (1 - CONFIG.gamma)
"""The value of a pole that never falls, at one reward per step."""


def learn(seed: int) -> tuple[float, float]:
    """Greedy return (at most 50), and the critics' mean value of what was replayed last."""
    config = replace(CONFIG, seed=seed)
    task = BraxTask(config.env, config.backend)
    loop = build.build(config, task)
    state = jax.jit(lambda: build.start(loop, [config]))()
    chunk = jax.jit(loop.train_chunk, donate_argnums=0)
    for _ in range(loop.schedule.chunks):
        state, metrics = chunk(state)

    @jax.jit
    def score(member):
        policy = loop.policy(member.learner.actor_eval, member.obs_stats)
        return greedy_returns(
            task, policy, jax.random.split(jax.random.key(7), 32), config.time_limit
        ).returns

    member = jax.tree.map(lambda x: x[0], state.members)
    return float(np.mean(score(member))), float(metrics.update.q_mean[0])


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_pole_is_balanced_and_its_value_is_known(seed):
    value, q = learn(seed)
    assert value > 45
    assert 0.75 * HORIZON < q < 1.1 * HORIZON


@pytest.mark.slow
def test_bootstrapping_after_a_fall_does_not_learn(monkeypatch):
    right = TD3.targets
    monkeypatch.setattr(
        TD3, "targets", lambda self, a, h, b, n: right(self, a, h, replace(b, terminated=0 * b.reward), n)
    )
    value, _ = learn(1)
    assert value < 30


@pytest.mark.slow
def test_taking_a_time_limit_for_a_fall_does_not_know_the_value(monkeypatch):
    right = VectorEnv.step

    def wrong(self, state, action):
        state, t, stats = right(self, state, action)
        return state, replace(t, terminated=t.terminated + t.truncated), stats

    monkeypatch.setattr(VectorEnv, "step", wrong)
    _, q = learn(1)
    assert q < 0.75 * HORIZON
