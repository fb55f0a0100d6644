"""What other libraries call on a saved policy, by the libraries themselves; one that is missing is a failure.

``pip install -e ".[test,interop]" && pytest -m interop -n 0 tests/interop``
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from td3_brax import Policy, load_policy

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("error::UserWarning")]
ENV = "InvertedPendulum-v5"
"""Actions are in [-3, 3], and an episode is whole, 1,000 steps of reward 1, where they are the right ones."""


@pytest.fixture
def policy() -> Policy:
    return load_policy(Path(__file__).parent.parent / "policies" / f"{ENV}.npz")


@pytest.mark.parametrize("deterministic", [True, False])
def test_stable_baselines3_evaluates_a_policy(policy: Policy, deterministic: bool) -> None:
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    env: Any = DummyVecEnv([lambda: Monitor(gymnasium.make(ENV))] * 2)
    returns, lengths = evaluate_policy(
        policy, env, n_eval_episodes=2, deterministic=deterministic, return_episode_rewards=True
    )
    assert (returns, lengths) == ([1000.0] * 2, [1000] * 2)


def test_its_signature_is_stable_baselines3s() -> None:
    from stable_baselines3.common.type_aliases import PolicyPredictor

    theirs, ours = (inspect.signature(kind.predict).parameters for kind in (PolicyPredictor, Policy))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


def test_minari_records_what_a_policy_plays(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    import minari

    env = minari.DataCollector(gymnasium.make(ENV))
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
        played, _ = policy.predict(episode.observations[:-1])
        np.testing.assert_allclose(played, episode.actions, rtol=0, atol=1e-5)


def test_gymnasium_steps_environments_together_by_a_policy(policy: Policy) -> None:
    envs = gymnasium.make_vec(ENV, num_envs=3)
    obs, _ = envs.reset(seed=0)
    for _ in range(5):
        action, _ = policy.predict(obs)
        assert envs.action_space.contains(action)
        obs = envs.step(action)[0]
