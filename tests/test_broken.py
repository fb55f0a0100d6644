"""Broken physics, observations and rewards are left out and reported, and are never a result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from odd import Point
from test_policy import random_policy
from test_vector import play

import td3_brax
from td3_brax import PolicyError, load_policy
from td3_brax.algorithm.evaluate import greedy_returns
from td3_brax.commands import eval as eval_command
from td3_brax.commands.render.episodes import play as play_shown
from td3_brax.config import Config
from td3_brax.envs.vector import VectorEnv
from td3_brax.runs.record import Record

TINY: dict[str, Any] = {
    "time_limit": 20,
    "total_env_steps": 2048,
    "num_envs": 16,
    "updates_per_env_step": 1 / 16,
    "warmup_env_steps": 256,
    "replay_capacity": 2048,
    "batch_size": 16,
    "hidden_sizes": [16],
    "report_every": 512,
    "eval_every": 1024,
    "eval_episodes": 8,
    "devices": 1,
    "checkpoint_every_min": 0,
}


class BrokenBirths(Point):
    """A third of its initial states have an observation that is none."""

    def obs(self, x: jax.Array) -> jax.Array:
        return x

    def reset(self, key: jax.Array) -> Any:
        x = jax.random.uniform(key, (2,), minval=-0.5, maxval=1.0)
        return x, jnp.where(x[0] < 0, jnp.inf, x)


def test_initial_states_that_break_are_never_used() -> None:
    transitions, stats = play(VectorEnv(BrokenBirths(), 64, 5), 80, 4)
    used = transitions.valid > 0
    for leaf in jax.tree.leaves(transitions):
        assert np.isfinite(leaf).all()
    begins = np.roll(transitions.truncated, 1, axis=0)[1:] * used[1:] > 0
    assert begins.any()
    assert (transitions.obs[1:][begins][:, 0] >= 0).all()
    assert stats.quarantined.sum() == 0
    assert stats.waited.sum() == (~used).sum() > 0


def test_an_episode_that_cannot_begin_is_told_from_one_that_returns_nothing() -> None:
    keys, task = jax.random.split(jax.random.key(0), 64), BrokenBirths()
    broken = ~np.isfinite(np.asarray(jax.vmap(task.reset)(keys)[1])).all(axis=1)
    assert 0 < broken.sum() < 64
    scores = greedy_returns(task, lambda obs: 0 * obs[:, :1], keys, 10)
    np.testing.assert_array_equal(scores.broken, broken)
    np.testing.assert_array_equal(scores.lengths, np.where(broken, 0, 10))
    assert np.isfinite(np.asarray(scores.returns)).all()


def test_nothing_is_shown_of_an_episode_that_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("td3_brax.commands.render.episodes.make_task", lambda _: BrokenBirths())
    shown = [random_policy(2, 1) for _ in range(3)]
    lengths = set()
    for seed in range(6):
        begins = np.isfinite(np.asarray(BrokenBirths().reset(jax.random.key(seed))[1])).all()
        _, episodes = play_shown(Config(time_limit=10), shown[:1], ["a"], 100.0, seed)
        assert len(episodes[0].rewards) == (10 if begins else 0)
        lengths.add(len(episodes[0].rewards))
    assert lengths == {0, 10}


def scored(mean: float | None, broken: int) -> dict[str, Any]:
    return {"eval/return_mean": mean, "eval/return_std": mean and 1.0, "eval/broken": broken}


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([(-5.0, 0), (-1.0, 0), (-3.0, 0)], 2),
        ([(-5.0, 0), (-0.1, 7), (-3.0, 0)], 3),  # it ends early, and loses little
        ([(-0.1, 7), (-5.0, 0)], 2),
        ([(-5.0, 3), (-1.0, 3), (-9.0, 2), (-0.1, 4)], 3),
        ([(None, 8), (-9.0, 7), (None, 8)], 2),
        ([(None, 8)], None),
    ],
)
def test_an_evaluation_in_which_less_breaks_is_better(
    evaluations: list[tuple[float | None, int]], best: int | None, tmp_path: Path
) -> None:
    lines: list[str] = []
    record = Record(Config(eval_episodes=8, total_env_steps=1_000_000), tmp_path, lines.append)
    for i, (mean, broken) in enumerate(evaluations, 1):
        record.outcome.env_steps = i
        said = record.note_evaluation(
            scored(mean, broken), lambda meta: dataclasses.replace(random_policy(), meta=meta)
        )
    assert bool(lines) == any(broken for _, broken in evaluations)
    if best is None:
        assert said["eval/return_best"] is None
        with pytest.raises(PolicyError):
            load_policy(tmp_path)
        assert record.problem()
    else:
        assert said["eval/return_best"] == evaluations[best - 1][0]
        assert load_policy(tmp_path).meta["env_steps"] == best
        assert bool(record.problem()) == (evaluations[-1][0] is None)


def test_a_run_in_which_all_breaks_is_not_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = td3_brax.fit(env="odd:AllBreak", out=tmp_path / "run", **TINY)
    printed = capsys.readouterr().out
    assert run.exit_code == 1
    assert "done" not in printed
    assert "return 0" not in printed
    assert all(r["env/quarantined"] for r in run.reports)
    assert [r["eval/broken"] for r in run.reports if "eval/broken" in r] == [8, 8]
    assert all(r.get("eval/return_mean") is None for r in run.reports)
    assert eval_command.main([str(run.out), "--which=last", "--episodes=4"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1


def test_a_run_in_which_some_breaks_says_how_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = td3_brax.fit(env="odd:SomeBreak", out=tmp_path / "run", **TINY)
    printed = capsys.readouterr().out
    assert run.exit_code == 0
    broken = sum(r["env/quarantined"] for r in run.reports)
    waited = sum(r["env/waited"] for r in run.reports)
    assert f"{broken:,} of {2048 - waited:,} steps broke" in printed
    for report in run.reports:
        if "eval/broken" in report:
            assert 0 < report["eval/broken"] < 8
            assert report["eval/return_mean"] < 0
    assert eval_command.main([str(run.out), "--episodes=32"]) == 0
    printed = capsys.readouterr().out
    assert "of 32 episodes broke" in printed
