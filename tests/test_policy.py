"""Saved policies: what they compute, what they need, and how broken files are refused."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from td3_brax import Policy, PolicyError, load_policy
from td3_brax.algorithm.networks import Actor
from td3_brax.algorithm.obs_stats import normalize
from td3_brax.algorithm.state import ObsStats
from td3_brax.commands import eval as eval_command
from td3_brax.config import Config
from td3_brax.policy import save_policy
from td3_brax.runs.program import Program

OBS, ACTION, HIDDEN = 5, 3, (16, 8)
LOW = np.array([-2.0, 0.0, 10.0], np.float32)
HIGH = np.array([2.0, 1.0, 30.0], np.float32)


def random_policy(obs_size: int = OBS, action_size: int = ACTION, env: str = "ant") -> Policy:
    """A policy with unit action limits and random weights."""
    rng = np.random.default_rng(0)
    sizes = (obs_size, *HIDDEN, action_size)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return Policy(
        env=env,
        weights=tuple(draw(a, b) for a, b in pairwise(sizes)),
        biases=tuple(draw(b) for b in sizes[1:]),
        obs_mean=draw(obs_size),
        obs_deviation=np.abs(draw(obs_size)) + 0.1,
        obs_clip=10.0,
        action_low=-np.ones(action_size, np.float32),
        action_high=np.ones(action_size, np.float32),
        meta={"env_steps": 5, "return_mean": -1.5},
    )


@functools.cache
def good_file() -> bytes:
    """A policy file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy_best.npz"
        save_policy(random_policy(), path)
        return path.read_bytes()


@pytest.fixture
def good() -> bytes:
    """A policy file's bytes."""
    return good_file()


@pytest.mark.parametrize("scaled", [True, False])
def test_the_saved_policy_acts_as_the_actor_does(tmp_path: Path, scaled: bool) -> None:
    rng = np.random.default_rng(1)
    actor = Actor(HIDDEN, ACTION)
    params = actor.init(jax.random.key(3), jnp.zeros(OBS))
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), params)
    # A coordinate that never moved (deviation 0.01 at least) and one so far out that it is clipped.
    stats = ObsStats(
        count=jnp.int32(50),
        mean=jnp.array([0.0, 1.0, -2.0, 100.0, 3.0], jnp.float32),
        variance=jnp.array([1.0, 0.1, 0.0, 2e-5, 10.0], jnp.float32),
    )
    one_member = jax.tree.map(lambda x: x[None], (params, stats))
    members = SimpleNamespace(learner=SimpleNamespace(actor_eval=one_member[0]), obs_stats=one_member[1])
    run: Any = SimpleNamespace(
        config=Config(hidden_sizes=HIDDEN, normalize_obs=scaled),
        task=SimpleNamespace(obs_size=OBS, action_size=ACTION, action_low=LOW, action_high=HIGH),
        state=SimpleNamespace(members=members),
    )
    save_policy(Program.policy(run, 0, {"env_steps": 7}), tmp_path / "policy_last.npz")

    policy = load_policy(tmp_path, "last")
    obs = (5 * rng.normal(size=(200, OBS))).astype(np.float32)
    expected = np.asarray(actor.apply(params, normalize(stats, jnp.asarray(obs)) if scaled else obs))
    action = policy(obs)
    assert np.abs(expected).min() < 0.1
    np.testing.assert_allclose(action, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(policy.forward(jnp.asarray(obs), jnp), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.stack([policy(o) for o in obs]), action, rtol=0, atol=1e-5)
    np.testing.assert_allclose(policy(obs.reshape(4, 50, OBS)), action.reshape(4, 50, ACTION), atol=1e-5)
    assert action.dtype == np.float32
    assert policy(obs[0].tolist()).shape == (ACTION,)
    assert policy(np.zeros((0, OBS))).shape == (0, ACTION)
    assert policy.env == "ant"
    assert policy.meta["env_steps"] == 7

    # predict: stable-baselines3's form, in the task's own units.
    units, state = policy.predict(obs)
    assert state is None
    np.testing.assert_allclose((units - LOW) / (HIGH - LOW) * 2 - 1, expected, rtol=0, atol=1e-5)
    assert policy.predict(obs[0], deterministic=True)[0].shape == (ACTION,)


def test_predict_reaches_the_limits_and_never_passes_them() -> None:
    policy = dataclasses.replace(random_policy(), action_low=LOW, action_high=HIGH)
    for sign, limit in ((100, HIGH), (-100, LOW)):
        biases = (*policy.biases[:-1], np.full(ACTION, sign, np.float32))
        action, _ = dataclasses.replace(policy, biases=biases).predict(np.zeros((4, OBS)))
        np.testing.assert_array_equal(action, np.broadcast_to(limit, (4, ACTION)))


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2, unique=True).map(sorted))
def test_actions_are_in_gymnasiums_box_of_the_limits(limits: list[float]) -> None:
    low, high = (np.full(ACTION, limit, np.float32) for limit in limits)
    policy = dataclasses.replace(random_policy(), action_low=low, action_high=high)
    box = gymnasium.spaces.Box(low, high)
    for push in (-100, 0, 100):
        biases = (*policy.biases[:-1], np.full(ACTION, push, np.float32))
        assert box.contains(dataclasses.replace(policy, biases=biases).predict(np.zeros(OBS))[0])


def test_predict_is_called_as_stable_baselines3_and_rl_zoo_do() -> None:
    """The real libraries call it in ``tests/interop``."""
    policy, obs = random_policy(), np.ones((2, OBS), np.float32)
    asked = ["observation", "state", "episode_start", "deterministic"]
    assert list(inspect.signature(policy.predict).parameters) == asked
    action, state = policy.predict(obs, state=None, episode_start=np.ones(2, bool), deterministic=True)
    assert (action.shape, action.dtype, state) == ((2, ACTION), np.float32, None)
    np.testing.assert_array_equal(policy.predict(obs, state, np.zeros(2, bool), False)[0], action)
    np.testing.assert_array_equal(policy.predict(observation=obs)[0], action)


@pytest.mark.parametrize("shape", [(OBS + 1,), (3, OBS - 1), (OBS, 1), ()])
def test_an_observation_of_another_size_is_refused_with_both_sizes(shape: tuple[int, ...]) -> None:
    policy = random_policy()
    for use in (policy, policy.predict):
        with pytest.raises(ValueError, match=rf"{OBS},") as error:
            use(np.zeros(shape))
        assert str(shape) in str(error.value)


def test_a_policy_needs_only_numpy(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "policy_best.npz").write_bytes(good)
    code = (
        "import sys; from td3_brax import load_policy; p = load_policy(sys.argv[1]); "
        f"print(p.predict([0.5] * {OBS})[0].tolist()); "
        "heavy = 'jax', 'flax', 'brax', 'mujoco', 'matplotlib', 'rich', 'yaml'; "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    action, modules = done.stdout.splitlines()
    assert modules == "[]"
    np.testing.assert_allclose(json.loads(action), random_policy()([0.5] * OBS), atol=1e-6)


def test_saving_replaces_the_file_whole_and_leaves_nothing_else(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "policy_best.npz"
    path.write_bytes(b"old")
    save_policy(random_policy(), path)
    save_policy(random_policy(), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    saved, again = load_policy(path), load_policy(tmp_path)
    for field in dataclasses.fields(Policy):
        expected = getattr(random_policy(), field.name)
        jax.tree.map(np.testing.assert_array_equal, getattr(saved, field.name), expected)
        jax.tree.map(np.testing.assert_array_equal, getattr(again, field.name), expected)


# Broken files: a PolicyError whose text is one line that names the file, and nothing else.


def refusal(path: Path) -> str:
    """What loading ``path`` says against it."""
    with pytest.raises(PolicyError) as error:
        load_policy(path)
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert str(path) in text
    return text


class Bomb:
    """An object that leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def edited(good: bytes, path: Path, **changes: Any) -> Path:
    """The file ``good`` at ``path`` with arrays changed (None: without)."""
    source = path.with_suffix(".source.npz")
    source.write_bytes(good)
    with np.load(source) as data:
        arrays = {name: data[name] for name in data.files} | changes
    source.unlink()
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def head(good: bytes, path: Path, **changes: Any) -> Path:
    """The file ``good`` at ``path`` with values of its head changed (None: without)."""
    path.write_bytes(good)
    with np.load(path) as data:
        values = json.loads(str(data["head"])) | changes
    values = {name: value for name, value in values.items() if value is not None}
    return edited(good, path, head=np.array(json.dumps(values)))


NAN = np.full(HIDDEN[0], np.nan, np.float32)
BREAKS: dict[str, Callable[[bytes, Path], Any]] = {
    "empty": lambda good, path: path.write_bytes(b""),
    "text": lambda good, path: path.write_text("not a policy\n"),
    "pickle": lambda good, path: path.write_bytes(pickle.dumps({"weights": 1})),
    "one array": lambda good, path: np.save(path.open("wb"), np.zeros(3)),
    "other arrays": lambda good, path: np.savez(path, a=np.zeros(3)),
    "missing weights": lambda good, path: edited(good, path, weight_1=None),
    "missing head": lambda good, path: edited(good, path, head=None),
    "missing limits": lambda good, path: edited(good, path, action_high=None),
    "swapped layers": lambda good, path: edited(
        good, path, weight_0=np.zeros((16, 8), np.float32), weight_1=np.zeros((5, 16), np.float32)
    ),
    "swapped biases": lambda good, path: edited(
        good, path, bias_0=np.zeros(8, np.float32), bias_1=np.zeros(16, np.float32)
    ),
    "a bias of one": lambda good, path: edited(good, path, bias_0=np.zeros(1, np.float32)),
    "another action size": lambda good, path: edited(good, path, action_low=np.zeros(1, np.float32)),
    "another observation size": lambda good, path: edited(
        good, path, obs_mean=np.zeros(4, np.float32), obs_deviation=np.ones(4, np.float32)
    ),
    "one deviation for all": lambda good, path: edited(good, path, obs_deviation=np.ones(1, np.float32)),
    "nan bias": lambda good, path: edited(good, path, bias_0=NAN),
    "infinite mean": lambda good, path: edited(good, path, obs_mean=np.full(OBS, np.inf, np.float32)),
    "zero deviation": lambda good, path: edited(good, path, obs_deviation=np.zeros(OBS, np.float32)),
    "nan clip": lambda good, path: edited(good, path, obs_clip=np.float32(np.nan)),
    "clip of zero": lambda good, path: edited(good, path, obs_clip=np.float32(0)),
    "text for weights": lambda good, path: edited(good, path, weight_0=np.array("abc")),
    "double precision": lambda good, path: edited(good, path, bias_0=np.zeros(16)),
    "head is no JSON": lambda good, path: edited(good, path, head=np.array("{")),
    "head is a list": lambda good, path: edited(good, path, head=np.array("[1]")),
    "head is a number": lambda good, path: edited(good, path, head=np.array(3.0)),
    "no layers": lambda good, path: head(good, path, layers=0),
    "more layers": lambda good, path: head(good, path, layers=9),
    "fewer layers": lambda good, path: head(good, path, layers=2),
    "endless layers": lambda good, path: head(good, path, layers=1e400),
    "layers in words": lambda good, path: head(good, path, layers="three"),
    "no format": lambda good, path: head(good, path, format=None),
    "meta is a number": lambda good, path: head(good, path, meta=3),
    "meta is text": lambda good, path: head(good, path, meta="ab"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_file_is_refused(tmp_path: Path, good: bytes, name: str) -> None:
    path = tmp_path / "policy_best.npz"
    BREAKS[name](good, path)
    refusal(path)


def test_the_edits_above_break_what_was_good(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "policy_best.npz"
    load_policy(edited(good, path))
    load_policy(head(good, path))
    load_policy(edited(good, path, obs_clip=np.float32(np.inf)))


def test_another_format_is_told_apart(tmp_path: Path, good: bytes) -> None:
    text = refusal(head(good, tmp_path / "policy_best.npz", format=99))
    assert "format 99" in text


def test_a_missing_file_or_folder_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "absent")
    with pytest.raises(PolicyError, match=r"policy_best\.npz"):
        load_policy(tmp_path)


def test_loading_never_unpickles(tmp_path: Path, good: bytes) -> None:
    for name in ("head", "weight_0", "obs_clip"):
        objects = np.array(Bomb(tmp_path / "boom"), dtype=object)
        path = edited(good, tmp_path / "policy_best.npz", **{name: objects})
        refusal(path)
        assert not (tmp_path / "boom").exists()
    with np.load(path, allow_pickle=True) as data:
        _ = data["obs_clip"]
    assert (tmp_path / "boom").exists()  # the bomb was a live one


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    good, path = good_file(), tmp_path_factory.getbasetemp() / "truncated.npz"
    path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    refusal(path)


def refused_or_unchanged(damaged: bytes, path: Path) -> None:
    """A damaged file must be refused, or still be the same policy."""
    path.write_bytes(damaged)
    try:
        policy = load_policy(path)
    except PolicyError:
        refusal(path)
    else:
        obs = np.linspace(-1, 1, OBS)
        np.testing.assert_array_equal(policy(obs), random_policy()(obs))


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_damage_to_any_byte_of_the_directory_is_refused_or_harmless(
    tmp_path: Path, good: bytes, flip: int
) -> None:
    for i in range(good.index(b"PK\x01\x02"), len(good)):
        refused_or_unchanged(good[:i] + bytes([good[i] ^ flip]) + good[i + 1 :], tmp_path / "damaged.npz")


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_damage_anywhere_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(good_file())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    refused_or_unchanged(bytes(damaged), tmp_path_factory.getbasetemp() / "damaged.npz")


# td3-brax eval and policies that do not fit.


def eval_refusal(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which ``td3-brax eval`` refuses the folder ``run``."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert eval_command.main([str(run), "--episodes=2"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert str(run) in printed.err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    return printed.err


def make_run(path: Path, policy: Policy, **options: Any) -> Path:
    """A folder as a run leaves it."""
    config = Config(env="inverted_pendulum", backend="spring", **options)
    (path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    save_policy(policy, path / "policy_best.npz")
    return path


def test_eval_refuses_a_policy_of_another_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = eval_refusal(make_run(tmp_path, random_policy(env="hopper")), capsys)
    assert "hopper" in line
    assert "inverted_pendulum" in line


def test_eval_refuses_a_policy_of_other_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = eval_refusal(make_run(tmp_path, random_policy(env="inverted_pendulum")), capsys)
    assert "sizes" in line


def test_eval_refuses_a_broken_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], good: bytes
) -> None:
    run = make_run(tmp_path, random_policy())
    (run / "policy_best.npz").write_bytes(good[:-30])
    assert "policy_best.npz" in eval_refusal(run, capsys)
