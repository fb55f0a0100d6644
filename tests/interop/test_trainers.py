"""Other people's trainers, unchanged, on our tasks; a library that is missing is a failure.

``pip install -e ".[test,interop]" && pytest -m interop -n 0 tests/interop``
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from td3_brax.envs import make

pytestmark = pytest.mark.interop
TASK = "InvertedPendulum-v5"


def test_rejaxs_ppo_learns_with_every_seed() -> None:
    """An episode is 200 steps at most, each rewarded with 1; an untrained policy stands for about 4."""
    import rejax

    env = make(TASK, kind="gymnax", time_limit=200)
    algo = rejax.get_algo("ppo").create(
        env=env,
        env_params=env.default_params,
        total_timesteps=49_152,
        eval_freq=24_576,
        num_envs=64,
        num_steps=32,
        num_epochs=4,
        num_minibatches=8,
        learning_rate=1e-3,
        max_grad_norm=0.5,
    )
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, (lengths, returns) = jax.block_until_ready(jax.jit(jax.vmap(algo.train))(keys))
    scores = np.asarray(returns).mean(axis=2)  # [seed, evaluation], of 128 episodes each
    assert (np.asarray(lengths) <= 200).all()
    assert (scores[:, -1] > 2 * scores[:, 0]).all(), scores


def test_gymnax_finds_its_own_spaces_and_wrapper() -> None:
    from gymnax.environments import spaces
    from gymnax.wrappers.purerl import LogWrapper

    env = make(TASK, kind="gymnax", time_limit=3)
    params = env.default_params
    assert isinstance(env.action_space(params), spaces.Box)
    assert env.observation_space(params).shape == (4,)
    assert env.action_space(params).sample(jax.random.key(0)).shape == (env.num_actions,)
    logged, key = LogWrapper(env), jax.random.PRNGKey(0)
    _, state = logged.reset(key, params)
    for _ in range(3):
        _, state, _, done, info = logged.step(key, state, np.zeros(1, np.float32), params)
    assert done
    assert info["truncated"]
    assert info["returned_episode_lengths"] == 3


def test_the_pages_example_trains() -> None:
    page = (Path(__file__).parents[2] / "docs" / "other-trainers.md").read_text()
    (code,) = (
        code for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "import rejax" in code
    )
    short = code.replace("Ant-v5", TASK).replace("5_000_000", "4_096").replace("1_000_000", "4_096")
    short = short.replace('kind="gymnax"', 'kind="gymnax", time_limit=5')
    names: dict[str, np.ndarray] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(short, names)
    assert names["returns"].shape == (2, 128)
    assert (names["returns"] > 0).all()
