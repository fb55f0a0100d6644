"""Whole episodes as the task steps them: each beside a loop over the bare task."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from said import names
from test_run import exit_code
from toy import Toy

from td3_brax import Policy
from td3_brax.commands import dataset
from td3_brax.policy import save_policy

LIMIT = dataset.STEPS + 20
LONGEST, POISON = 240, 0.97


def policy(task: type[Toy] = Toy) -> Policy:
    """Any policy; its actions depend on how far the episode is."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 8)), rng.normal(size=(8, 1)) / 8
    return Policy(
        env="toy",
        weights=tuple(w.astype(np.float32) for w in weights),
        biases=(np.zeros(8, np.float32), np.zeros(1, np.float32)),
        obs_mean=np.zeros(2, np.float32),
        obs_deviation=np.array([1, 50], np.float32),
        obs_clip=math.inf,
        action_low=task.action_low,
        action_high=task.action_high,
        meta={},
    )


def test_episodes_are_those_of_the_bare_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play terminated, truncated and broken episodes with noise, in three batches, the last one not full."""
    monkeypatch.setattr(dataset, "TOGETHER", 16)
    task, acts = Toy(LONGEST, POISON), policy()
    step = jax.jit(task.step)
    played = list(dataset.record(task, acts, 40, LIMIT, noise=0.3, seed=5))
    assert len(played) == 40
    whole = [episode for episode in played if episode]
    assert 5 < len(whole) < 40
    deviations = []
    for episode in whole:
        state = episode.obs[0]
        assert state[1] == 0
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(episode.obs[t], state)
            out = step(state, action)
            assert episode.rewards[t] == pytest.approx(float(out.reward), rel=1e-6)
            last = t + 1 == len(episode.actions)
            assert last == (bool(out.terminated) or t + 1 == LIMIT)
            state = np.asarray(out.obs)
        np.testing.assert_array_equal(episode.obs[-1], state)
        assert len(episode.obs) == len(episode.actions) + 1 == len(episode.rewards) + 1
        assert episode.terminated == bool(out.terminated)
        assert episode.actions.max() <= POISON  # beyond it, the episode broke
        deviations.append(episode.actions - acts(episode.obs[:-1]))
    assert {episode.terminated for episode in whole} == {True, False}
    assert len({float(episode.obs[0, 0]) for episode in whole}) == len(whole)
    noise = np.concatenate(deviations)[:, 0]
    assert np.std(noise) == pytest.approx(0.3, rel=0.15)  # a little less: some of it is clipped
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.1
    assert len(np.unique(noise)) > 0.9 * len(noise)


def test_without_noise_actions_are_the_policys_and_more_episodes_begin_with_the_same() -> None:
    task, acts = Toy(LONGEST), policy()
    few = list(dataset.record(task, acts, 3, 30))
    for one, other in zip(few, list(dataset.record(task, acts, 5, 30)), strict=False):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.obs, other.obs)
        np.testing.assert_allclose(one.actions, acts(one.obs[:-1]), atol=1e-6)
        units = acts.in_task_units(one.actions)
        np.testing.assert_allclose(units, acts.predict(one.obs[:-1])[0], atol=1e-5)
        assert units.dtype == np.float32
        assert np.abs(units).max() <= 2


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with options and a policy."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"env": "toy"}))
    save_policy(policy(), out / "policy_best.npz")
    return out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], ["--minari"]),
        (["--minari=x-v0", "--noise=-1"], ["--noise", "-1", "0"]),
        (["--minari=x-v0", "--episodes=0"], ["--episodes", "0"]),
        (["--minari=x-v0"], ["--minari=x-v0", "minari", "h5py", "td3-brax[minari]"]),
    ],
)
def test_what_can_not_be_is_said_in_one_line(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    said: list[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "minari" else find(name))
    assert exit_code(dataset.main, [str(run), *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert names(line, said)
