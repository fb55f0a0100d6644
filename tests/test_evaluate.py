"""Greedy scores against a plain Python loop over the same episodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy

from td3_brax.algorithm.evaluate import greedy_returns

LIMIT, GAMMA = 20, 0.9


def policy(obs):
    return 0.1 * obs[..., :1]


def value(obs, action):
    return 3 * obs[..., 0] - obs[..., 1] + action[..., 0]


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(3), 64)


def played(birth: float, longest: float) -> tuple[list[float], list[float]]:
    """Rewards and the critic's values of an episode of the toy task."""
    rewards, says, t = [], [], 0
    while t < LIMIT:
        action = 0.1 * birth
        says.append(3 * birth - t + action)
        t += 1
        rewards.append(birth + t + action)
        if t >= 1 + np.floor(birth * longest):
            break
    return rewards, says


def test_scores_are_those_of_a_plain_loop(keys):
    task = Toy(longest=40.0)
    births = np.asarray(jax.vmap(task.reset)(keys)[1][:, 0], np.float64)
    scores = jax.jit(lambda k: greedy_returns(task, policy, k, LIMIT, value, GAMMA))(keys)
    cut = 0
    for i, birth in enumerate(births):
        rewards, says = played(birth, 40.0)
        early = range(min(len(rewards), LIMIT // 2))
        later = [sum(r * GAMMA**k for k, r in enumerate(rewards[t:])) for t in early]
        assert scores.lengths[i] == len(rewards)
        assert scores.states[i] == len(early)
        np.testing.assert_allclose(scores.returns[i], sum(rewards), rtol=1e-5)
        np.testing.assert_allclose(scores.value_sum[i], sum(says[t] for t in early), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scores.true_value_sum[i], sum(later), rtol=1e-5)
        cut += len(rewards) == LIMIT
    assert 0 < cut < len(births)


def test_without_a_critic_only_the_sums_are_missing(keys):
    task = Toy(longest=40.0)
    bare = greedy_returns(task, policy, keys, LIMIT)
    scores = greedy_returns(task, policy, keys, LIMIT, value, GAMMA)
    np.testing.assert_array_equal(bare.returns, scores.returns)
    np.testing.assert_array_equal(bare.lengths, scores.lengths)
    assert not jnp.any(bare.value_sum)


def test_what_breaks_counts_up_to_there(keys):
    task = Toy(longest=40.0, poison=0.05)
    births = np.asarray(jax.vmap(task.reset)(keys)[1][:, 0])
    scores = greedy_returns(task, policy, keys, LIMIT, value, GAMMA)
    broken = 0.1 * births > 0.05
    assert broken.any()
    np.testing.assert_array_equal(scores.broken, broken)
    for name in ("returns", "lengths", "value_sum", "true_value_sum", "states"):
        column = np.asarray(getattr(scores, name))
        assert np.isfinite(column).all()
        assert not column[broken].any()
