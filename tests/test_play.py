"""``td3-brax play``: what a stand-in for MuJoCo's viewer is shown and when, and what a missing screen is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import mujoco.viewer
import numpy as np
import pytest
from odd import Point
from said import names

from td3_brax.algorithm.evaluate import greedy_returns
from td3_brax.commands import play
from td3_brax.config import Config
from td3_brax.policy import Policy, save_policy
from td3_brax.runs.files import write_config
from td3_brax.runs.formatting import number

POINT = Config(env="odd:Point", time_limit=30)
PUSH = 3.0
"""It leaves the region of radius 5 sooner or later."""


class Breaks(Point):
    """Its reward is never finite."""

    def reward(self, x: jax.Array) -> Any:
        return x[0] * jnp.nan


class FakeViewer:
    """Notes what it is shown, and is closed by the user after some frames."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, frames: float) -> None:
        self.model, self.data, self.frames = model, data, frames
        self.cam = mujoco.MjvCamera()
        self.shown: list[tuple[float, float]] = []
        self.locked = self.closed = False

    def lock(self) -> Any:
        viewer = self

        class Lock:
            def __enter__(self) -> None:
                viewer.locked = True

            def __exit__(self, *_: object) -> None:
                viewer.locked = False

        return Lock()

    def sync(self) -> None:
        assert not self.locked  # sync takes the lock itself
        self.shown.append((self.data.time, self.data.geom_xpos[0, 0]))

    def is_running(self) -> bool:
        return len(self.shown) < self.frames

    def __enter__(self) -> FakeViewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Clock:
    """Time passes while the program sleeps, and a second before each of the first looks."""

    def __init__(self, slow_looks: int) -> None:
        self.now, self.slow_looks, self.slept = 0.0, slow_looks, 0.0

    def perf_counter(self) -> float:
        self.now += self.slow_looks > 0
        self.slow_looks -= 1
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now, self.slept = self.now + seconds, self.slept + seconds


@pytest.fixture
def policy() -> Policy:
    """One that always pushes."""
    return Policy(
        env=POINT.env,
        weights=(np.zeros((2, 1), np.float32),),
        biases=(np.full(1, PUSH, np.float32),),
        obs_mean=np.zeros(2, np.float32),
        obs_deviation=np.ones(2, np.float32),
        obs_clip=10.0,
        action_low=-np.ones(1, np.float32),
        action_high=np.ones(1, np.float32),
        meta={},
    )


@pytest.fixture
def trained(tmp_path: Path, policy: Policy) -> Path:
    """A run's folder."""
    write_config(tmp_path, POINT)
    save_policy(policy, tmp_path / "policy_best.npz")
    return tmp_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that replaces the viewer, and returns the list of those that were opened."""
    viewers: list[FakeViewer] = []

    def prepare(frames: float) -> list[FakeViewer]:
        def launch(model: Any, data: Any, **_: Any) -> FakeViewer:
            viewers.append(FakeViewer(model, data, frames))
            return viewers[-1]

        monkeypatch.setattr(mujoco.viewer, "launch_passive", launch)
        monkeypatch.setattr(play, "missing_screen", lambda: "")
        return viewers

    return prepare


def test_what_is_shown_is_what_evaluation_plays(
    trained: Path,
    policy: Policy,
    opened: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock(0)
    monkeypatch.setattr(play, "time", clock)
    viewers = opened(np.inf)
    assert play.main([str(trained), "--episodes=3", "--seed=5"]) == 0
    (viewer,) = viewers
    keys = jnp.stack([jax.random.key(seed) for seed in (5, 6, 7)])
    scores = greedy_returns(Point(), lambda obs: policy.forward(obs, jnp), keys, POINT.time_limit)
    said = capsys.readouterr().out.splitlines()
    for line, total, length in zip(said, scores.returns, scores.lengths, strict=True):
        assert names(line, [f"return {number(float(total))}", f"length {length}"]), line
        assert "finished" not in line
    assert len(viewer.shown) == scores.lengths.sum()
    # The pictures of the first episode: the state, worked out by hand, at the times of the task.
    x = np.asarray(Point().reset(jax.random.key(5))[0], float)
    for step, (time, place) in enumerate(viewer.shown[: int(scores.lengths[0])], 1):
        x[1] += 0.1 * np.tanh(PUSH)
        x[0] += 0.1 * x[1]
        assert time == pytest.approx(step * Point.dt)
        assert place == pytest.approx(x[0], abs=1e-5)
    assert clock.slept == pytest.approx(len(viewer.shown) * Point.dt)  # real time
    assert viewer.cam.type == mujoco.mjtCamera.mjCAMERA_TRACKING
    assert viewer.cam.trackbodyid == 1
    assert viewer.closed


def test_a_window_that_is_closed_ends_it_and_slow_steps_are_not_made_up_for(
    trained: Path, opened: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(11)
    monkeypatch.setattr(play, "time", clock)
    viewers = opened(40)
    assert play.main([str(trained)]) == 0
    assert [len(viewer.shown) for viewer in viewers] == [40]
    assert clock.slept == pytest.approx(30 * Point.dt)  # ten steps took a second each
    assert "not finished" in capsys.readouterr().out.splitlines()[-1]


def test_physics_that_break_at_once_are_told(
    trained: Path, opened: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("odd.Point", Breaks)
    viewers = opened(np.inf)
    assert play.main([str(trained)]) == 2
    assert not viewers[0].shown
    errors = capsys.readouterr().err
    assert names(errors, [str(trained), POINT.env])
    assert errors.count("\n") == 1
    assert viewers[0].closed


def test_a_viewer_that_does_not_start_is_one_line(
    trained: Path, opened: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(1)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(
            "`launch_passive` requires that the Python script be run under `mjpython` on macOS"
        )

    monkeypatch.setattr(mujoco.viewer, "launch_passive", refuse)
    assert play.main([str(trained)]) == 2
    errors = capsys.readouterr().err
    assert names(errors, ["mjpython -m td3_brax play", f"td3-brax render {trained} --html"])
    assert errors.count("\n") == 1


@pytest.mark.parametrize("display", ["", ":4711"])
def test_without_a_screen_one_line_says_what_to_use_instead(display: str, trained: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-m", "td3_brax", "play", str(trained)],
        env=env | ({"DISPLAY": display} if display else {}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert names(done.stderr, [f"td3-brax render {trained} --html", display or "DISPLAY"])
    assert done.stderr.count("\n") == 1


def test_only_linux_asks_for_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stderr=""))
    assert play.missing_screen() == ""


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main([str(tmp_path)]) == 2
    assert "contains no run" in capsys.readouterr().err
