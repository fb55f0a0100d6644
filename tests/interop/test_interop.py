"""What other libraries call on a saved policy, by the libraries themselves; one that is missing is a failure.

``pip install -e ".[test,interop]" && pytest -m interop -n 0 tests/interop``
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from test_policy import random_policy

from td3_brax import Policy

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("error::UserWarning")]
ENV = "InvertedPendulum-v5"


def policy_of(env: Any) -> Policy:
    box = env.action_space
    policy = random_policy(env.observation_space.shape[0], box.shape[0], ENV)
    return dataclasses.replace(policy, action_low=box.low, action_high=box.high)


def played(seed: int) -> tuple[float, int]:
    """Return and length of an episode."""
    env = gymnasium.make(ENV)
    policy, (obs, _), total, length, ended = policy_of(env), env.reset(seed=seed), 0.0, 0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(policy.predict(obs)[0])
        total, length, ended = total + float(reward), length + 1, terminated or truncated
    return total, length


@pytest.mark.parametrize("deterministic", [True, False])
def test_stable_baselines3_evaluates_a_policy(deterministic: bool) -> None:
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    env: Any = DummyVecEnv([lambda: Monitor(gymnasium.make(ENV))] * 2)
    env.seed(3)  # its second environment is seeded with 4
    policy = policy_of(env)
    returns, lengths = evaluate_policy(
        policy, env, n_eval_episodes=2, deterministic=deterministic, return_episode_rewards=True
    )
    assert sorted(zip(returns, lengths, strict=True)) == pytest.approx(sorted([played(3), played(4)]))


def test_its_signature_is_stable_baselines3s() -> None:
    import inspect

    from stable_baselines3.common.type_aliases import PolicyPredictor

    theirs, ours = (inspect.signature(kind.predict).parameters for kind in (PolicyPredictor, Policy))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


def test_minari_records_what_a_policy_plays(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    import minari

    env = minari.DataCollector(gymnasium.make(ENV))
    policy = policy_of(env)
    for seed in range(2):
        obs, ended = env.reset(seed=seed)[0], False
        while not ended:
            obs, _, terminated, truncated, _ = env.step(policy.predict(obs)[0])
            ended = terminated or truncated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of authors and descriptions that the dataset has none of
        dataset = env.create_dataset("pendulum/ours-v0", algorithm_name="TD3")
    assert dataset.total_episodes == 2
    for episode in dataset.iterate_episodes():
        np.testing.assert_array_equal(policy.predict(episode.observations[:-1])[0], episode.actions)


def test_gymnasium_steps_environments_together_by_a_policy() -> None:
    envs = gymnasium.make_vec(ENV, num_envs=3)
    obs, _ = envs.reset(seed=0)
    policy = policy_of(gymnasium.make(ENV))
    for _ in range(5):
        action, _ = policy.predict(obs)
        assert envs.action_space.contains(action)
        obs = envs.step(action)[0]
