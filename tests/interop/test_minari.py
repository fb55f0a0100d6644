"""Datasets of ``td3-brax dataset``: Minari reads them, d3rlpy learns from them; a missing library fails.

``pip install -e ".[test,interop]" && pytest -m interop -n 0 tests/interop``
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from td3_brax import load_policy
from td3_brax.commands import dataset

pytestmark = pytest.mark.interop
ENV = "InvertedPendulum-v5"
"""Its observation is its whole state, and its actions are in [-3, 3]."""
LIMIT, NOISE = 120, 0.3
POLICIES = Path(__file__).parent.parent / "policies"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a kept policy."""
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(POLICIES / f"{ENV}.npz", out / "policy_best.npz")
    args = json.dumps({"reset_noise_scale": 0.05})
    (out / "config.json").write_text(json.dumps({"env": ENV, "time_limit": LIMIT, "env_args": args}))
    return out


@pytest.fixture
def made(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Minari's dataset of 12 episodes with noise."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    argv = [str(run), "--episodes=12", f"--noise={NOISE}", "--minari=pole/ours-v0", "--author=A. Person"]
    assert dataset.main(argv) == 0
    import minari

    return minari.load_dataset("pole/ours-v0")


def test_minari_reads_whole_episodes(made: Any) -> None:
    assert made.total_episodes == 12
    assert made.spec.observation_space.dtype == np.float64
    assert made.storage.metadata["algorithm_name"] == "TD3"
    assert set(made.storage.metadata["author"]) == {"A. Person"}
    policy = load_policy(POLICIES / f"{ENV}.npz")
    for episode in made.iterate_episodes():
        steps = len(episode.rewards)
        assert episode.observations.shape == (steps + 1, 4)
        assert episode.actions.shape == (steps, 1)
        ends = episode.terminations.astype(int) + episode.truncations
        assert ends.tolist() == [0] * (steps - 1) + [1]
        assert episode.truncations[-1] == (steps == LIMIT)
        assert all(made.spec.action_space.contains(action) for action in episode.actions)
        assert all(made.spec.observation_space.contains(obs) for obs in episode.observations)
        greedy, _ = policy.predict(episode.observations[:-1])
        assert np.std(episode.actions - greedy) == pytest.approx(3 * NOISE, rel=0.4)  # in the task's units


def test_its_environment_plays_the_same(made: Any) -> None:
    """From the first recorded state, by the recorded actions, in the environment that Minari makes."""
    env = made.recover_environment()
    assert env.spec.max_episode_steps == LIMIT
    assert env.spec.kwargs["reset_noise_scale"] == 0.05
    for episode in made.iterate_episodes():
        env.reset(seed=0)
        env.unwrapped.set_state(episode.observations[0, :2], episode.observations[0, 2:])
        for t, action in enumerate(episode.actions[:20]):  # later, errors have grown: the pole is unstable
            obs, reward, terminated, _, _ = env.step(action)
            np.testing.assert_allclose(obs, episode.observations[t + 1], atol=2e-4)
            assert reward == episode.rewards[t]
            assert terminated == episode.terminations[t]


def test_a_dataset_is_never_overwritten(
    made: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in (tmp_path / "datasets").rglob("*") if p.is_file()}
    for name in ("pole/ours-v0", "pole/ours", "../ours-v0"):
        assert dataset.main([str(run), f"--minari={name}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--minari={name}" in line
    assert {p: p.read_bytes() for p in (tmp_path / "datasets").rglob("*") if p.is_file()} == before


def test_a_task_that_gymnasium_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy of brax's pole: the dataset has its spaces, and no environment."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    import minari
    from test_dataset import policy
    from toy import Point

    from td3_brax.policy import save_policy

    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"env": "toy:Point", "time_limit": 30}))
    pole = {**vars(policy(Point)), "env": "toy:Point"}
    save_policy(type(policy())(**pole), out / "policy_best.npz")
    assert dataset.main([str(out), "--episodes=2", "--minari=point-v3"]) == 0
    read = minari.load_dataset("point-v3")
    assert read.spec.env_spec is None
    assert read.spec.action_space == gymnasium.spaces.Box(-2, 2, (1,), np.float32)
    assert [len(episode) for episode in read.iterate_episodes()] == [30, 30]


def test_d3rlpy_learns_from_it(made: Any) -> None:
    """Behaviour cloning finds the policy under the noise; TD3+BC's losses are finite.

    d3rlpy 2.8 has a loader of its own for Minari's datasets, but it counts the last observation of an episode
    as the next episode's first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import d3rlpy

    def joined(part: Callable[[Any], np.ndarray]) -> np.ndarray:
        return np.concatenate([part(episode) for episode in made.iterate_episodes()])

    episodes = d3rlpy.dataset.MDPDataset(
        observations=joined(lambda e: e.observations[:-1].astype(np.float32)),
        actions=joined(lambda e: e.actions),
        rewards=joined(lambda e: e.rewards),
        terminals=joined(lambda e: e.terminations),
        timeouts=joined(lambda e: e.truncations),
    )
    assert [len(episode) for episode in episodes.episodes] == [len(e) for e in made.iterate_episodes()]
    d3rlpy.seed(0)
    scaled = {
        "observation_scaler": d3rlpy.preprocessing.StandardObservationScaler(),
        "action_scaler": d3rlpy.preprocessing.MinMaxActionScaler(),
    }
    policy = load_policy(POLICIES / f"{ENV}.npz")
    obs = joined(lambda e: e.observations[:-1].astype(np.float32))
    kinds = ((d3rlpy.algos.BCConfig, "loss"), (d3rlpy.algos.TD3PlusBCConfig, "critic_loss"))
    for kind, loss in kinds:
        learner = kind(**scaled).create()
        found = learner.fit(
            episodes,
            n_steps=300,
            n_steps_per_epoch=100,
            show_progress=False,
            save_interval=9,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        )
        losses = [metrics[loss] for _, metrics in found]
        assert len(losses) == 3
        assert np.isfinite(losses).all()
        if kind is d3rlpy.algos.BCConfig:
            assert losses[-1] < losses[0]
            cloned, greedy = learner.predict(obs)[:, 0], policy.predict(obs)[0][:, 0]
            assert np.corrcoef(cloned, greedy)[0, 1] > 0.95
