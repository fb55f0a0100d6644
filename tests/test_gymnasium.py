"""Gymnasium's tasks on the device against the real Gymnasium environments, one step from the same state."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from said import names
from scipy import stats
from visits import POLICIES, ours_from, percentile, real, task_of, visited

from td3_brax import load_policy
from td3_brax.commands import eval as eval_command
from td3_brax.commands import score
from td3_brax.commands.render.episodes import play as episodes_of
from td3_brax.envs.physics.mjx import dynamics
from td3_brax.envs.physics.mjx.patched import mjx, precise
from td3_brax.envs.physics.rigid.physics import RigidPhysics
from td3_brax.envs.physics.rigid.unsupported import unsupported_features
from td3_brax.envs.tasks import gymnasium_models
from td3_brax.envs.tasks.gymnasium import make
from td3_brax.envs.tasks.gymnasium_base import GymnasiumTask
from td3_brax.envs.tasks.wrapper import _primitives
from td3_brax.names import GYMNASIUM_TASKS
from td3_brax.option import ConfigError
from td3_brax.policy import save_policy

STATES = 1000
CLOSE = 1e-3
"""Percentile 99 of errors in observation and reward."""
CLOSER = 1e-5
"""The same in positions."""


def compare(task: GymnasiumTask, at: dict[str, np.ndarray]) -> None:
    out = ours_from(task, at)
    assert (out.terminated == at["terminated"]).all()
    assert percentile(out.reward, at["reward"]) < CLOSE
    assert out.obs.shape == at["next_obs"].shape
    assert percentile(out.obs, at["next_obs"]) < CLOSE
    assert percentile(out.state.physics.qpos, at["next_qpos"]) < CLOSER


@pytest.mark.parametrize("name", [n for n in GYMNASIUM_TASKS if n.endswith("5")])
def test_a_step_is_gymnasiums(name: str) -> None:
    compare(task_of(name), visited(name, STATES))


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("Ant-v5", "HalfCheetah-v5")),
        "InvertedDoublePendulum-v5",
    ],
)
def test_so_is_one_on_mjx(name: str) -> None:
    compare(make(name, {}, "mjx"), visited(name, 200))


@pytest.mark.parametrize(
    "name", [pytest.param("Ant-v4", marks=pytest.mark.slow), "InvertedDoublePendulum-v4", "Reacher-v4"]
)
def test_so_is_one_of_version_4_where_it_differs(name: str) -> None:
    compare(task_of(name), visited(name, 200))


@pytest.mark.slow
def test_ants_arguments_are_gymnasiums() -> None:
    args: dict[str, Any] = {
        "frame_skip": 2,
        "ctrl_cost_weight": 0.1,
        "contact_cost_weight": 0.01,
        "contact_force_range": [-0.5, 2.0],
        "forward_reward_weight": 2,
        "healthy_reward": 0.5,
        "healthy_z_range": [0.4, 0.8],
        "terminate_when_unhealthy": False,
        "exclude_current_positions_from_observation": False,
        "include_cfrc_ext_in_observation": True,
    }
    named = {k: tuple(v) if isinstance(v, list) else v for k, v in args.items()}
    compare(make("Ant-v5", args), visited("Ant-v5", 200, **named))


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("Ant-v5", {"ctrl_cost_wieght": 1}, ["ctrl_cost_wieght", "ctrl_cost_weight"]),
        ("Ant-v5", {"xml_file": "other.xml"}, ["xml_file", "healthy_z_range"]),
        ("Ant-v5", {"healthy_z_range": 1}, ["healthy_z_range", "1"]),
        ("Ant-v5", {"terminate_when_unhealthy": 1}, ["terminate_when_unhealthy", "1", "true", "false"]),
        ("Hopper-v5", {"frame_skip": 0}, ["frame_skip", "0", "0"]),
        ("Reacher-v4", {"frame_skip": 2}, ["frame_skip", "Reacher-v4"]),
        ("HalfCheetah-v5", {"ctrl_cost_weight": "much"}, ["ctrl_cost_weight", "much"]),
    ],
)
def test_a_wrong_argument_is_named(name: str, args: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make(name, args)
    assert names(str(error.value), says), error.value


def test_another_model_than_the_tested_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint/><geom size='1'/></body></worldbody></mujoco>"
    )
    before = gymnasium_models.fingerprint(model)
    model.geom_size[0] *= 1.001
    assert gymnasium_models.fingerprint(model) != before
    monkeypatch.setitem(gymnasium_models.FINGERPRINTS, "ant.xml", "another")
    with pytest.raises(ConfigError, match=r"\bant\.xml\b"):
        make("Ant-v5", {})


@pytest.mark.parametrize("name", [n for n in GYMNASIUM_TASKS if n.endswith("5")])
def test_initial_states_have_gymnasiums_distribution(name: str) -> None:
    task, env = task_of(name), real(name)
    keys = jax.random.split(jax.random.key(0), 2000)
    state, obs = jax.device_get(jax.jit(jax.vmap(task.reset))(keys))
    theirs = []
    for seed in range(300):
        first, _ = env.reset(seed=seed)
        theirs.append(np.concatenate([env.data.qpos, env.data.qvel, first]))
    mine = np.concatenate([state.physics.qpos, state.physics.qvel, obs], axis=1)
    for ours_of, theirs_of in zip(mine.T, np.array(theirs).T, strict=True):
        if np.ptp(theirs_of) < 1e-6:
            np.testing.assert_allclose(ours_of, theirs_of[0], atol=1e-6)
        else:
            assert stats.ks_2samp(ours_of, theirs_of).pvalue > 1e-5
    assert task.open_loops is False
    state = jax.eval_shape(task.reset, keys[0])[0]
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) < 1024
    np.testing.assert_array_equal(task.action_low, env.action_space.low)
    np.testing.assert_array_equal(task.action_high, env.action_space.high)


@pytest.mark.parametrize("name", ["Ant-v5", "Hopper-v5", "HalfCheetah-v5"])
def test_a_step_has_no_loop_of_unknown_length(name: str) -> None:
    task = make(name, {}, "mjx")
    state, _ = jax.eval_shape(task.reset, jax.random.key(0))
    step = jax.make_jaxpr(task.step)(state, jax.ShapeDtypeStruct((task.action_size,), jnp.float32))
    assert "while" not in _primitives(step.jaxpr, set())
    assert "scan" in _primitives(step.jaxpr, set())


@pytest.mark.slow
def test_the_ant_stands() -> None:
    """With too few contacts it would sink through the floor."""
    task = task_of("Ant-v5")
    start, _ = task.set_state(jnp.asarray(task.model.qpos0, jnp.float32), jnp.zeros(task.model.nv))

    def step(state: Any, _: None) -> Any:
        out = task.step(state, jnp.zeros(8))
        return out.state, (out.state.physics.qpos[2], out.terminated)

    _, (height, terminated) = jax.jit(lambda s: jax.lax.scan(step, s, length=60))(start)
    env = real("Ant-v5")
    env.set_state(task.model.qpos0, np.zeros(task.model.nv))
    theirs = []
    for _ in range(60):
        env.step(np.zeros(8))
        theirs.append(env.data.qpos[2])
    assert not terminated.any()
    np.testing.assert_allclose(height, theirs, atol=1e-3)


def test_no_more_contacts_are_active_than_the_ant_has_room_for() -> None:
    task = make("Ant-v5", {}, "mjx")
    assert isinstance(task.physics, dynamics.Physics)
    at = visited("Ant-v5", STATES)

    def active(qpos: jax.Array, qvel: jax.Array) -> jax.Array:
        state = dynamics.State(qpos=qpos, qvel=qvel, qacc=jnp.zeros_like(qvel))
        return task.physics.forward(state, jnp.zeros(8)).active

    most = jax.jit(jax.vmap(active))(jnp.float32(at["qpos"]), jnp.float32(at["qvel"])).max()
    assert 4 <= most <= task.physics.contacts.max_active


def test_a_steep_capsules_contact_frame_is_mujocos_and_not_mjxs() -> None:
    """When MJX's is too, ``Contacts.frames`` has no purpose any more."""
    task = make("Ant-v5", {}, "mjx")
    assert isinstance(task.physics, dynamics.Physics)
    states = visited("Ant-v5", STATES)["qpos"]

    def frames(qpos: jax.Array) -> Any:
        m = task.physics.mjx_model
        d = mjx.collision(m, mjx.kinematics(m, mjx.make_data(m).replace(qpos=qpos)))
        c = d._impl.contact
        return c.geom, c.pos, c.frame, task.physics.contacts.frames(d)

    with precise():
        found = jax.device_get(jax.jit(jax.vmap(frames))(jnp.float32(states)))
    data, ours_off, theirs_off = mujoco.MjData(task.model), [], []
    for i, qpos in enumerate(states):
        data.qpos[:] = qpos
        mujoco.mj_forward(task.model, data)
        geom, pos, theirs, mine = (part[i] for part in found)
        for contact in data.contact:
            same = [k for k in range(len(geom)) if set(geom[k]) == set(contact.geom)]
            k = min(same, key=lambda k: float(np.abs(pos[k] - contact.pos).max()))
            frame = contact.frame.reshape(3, 3)
            ours_off.append(np.abs(mine[k] - frame).max())
            theirs_off.append(np.abs(theirs[k] - frame).max())
    assert len(ours_off) > 200
    assert max(ours_off) < 1e-5
    assert max(theirs_off) > 0.1, "MJX aligns the frame itself now: delete Contacts.frames"


@pytest.mark.parametrize("name", GYMNASIUM_TASKS)
def test_the_fast_physics_are_those_of_what_they_cover(name: str) -> None:
    covered = not unsupported_features(make(name, {}, "mjx").model)
    assert covered != name.startswith("Swimmer")
    assert isinstance(make(name, {}).physics, RigidPhysics) == covered
    assert isinstance(make(name, {}, "mjx").physics, dynamics.Physics)


def test_a_policy_is_scored_in_the_real_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "policy_best.npz").write_bytes((POLICIES / "InvertedPendulum-v5.npz").read_bytes())
    (run / "config.json").write_text('{"env": "InvertedPendulum-v5", "preset": "paper"}')
    assert score.main([str(run), "--episodes=3", "--processes=2"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"\b1,000\.0 \+- 0\.0\b", printed)) == 2, printed
    assert names(printed.splitlines()[0], ["InvertedPendulum-v5", "Gymnasium"])
    last = printed.splitlines()[-1]
    assert "overlap" in last
    assert "not" not in last
    assert score.main([str(run), "--gym=Ant-v5"]) == 2
    assert names(capsys.readouterr().err, [str(run), "4", "1", "Ant-v5", "105", "8"])
    assert score.main([str(run), "--gym=ant-v5"]) == 2
    assert names(capsys.readouterr().err, ["--gym=ant-v5", "Ant-v5", "Ant-v5"])
    config, policy = score.load(run, "best")
    monkeypatch.setattr(score, "load", lambda *_: (replace(config, env="inverted_pendulum"), policy))
    assert score.main([str(run)]) == 2
    assert names(capsys.readouterr().err, [str(run), "inverted_pendulum", "--gym=InvertedPendulum-v4"])


def test_every_command_that_plays_a_task_has_the_options_of_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, run = "InvertedPendulum-v5", str(tmp_path)
    (tmp_path / "config.json").write_text(
        f'{{"env": "{name}", "preset": "paper", "time_limit": 40, "env_args": {{"reset_noise_scale": 0.02}}}}'
    )
    meta = {"time_limit": 40, "env_args": {"reset_noise_scale": 0.02}}
    policy = replace(load_policy(POLICIES / f"{name}.npz"), meta=meta)
    save_policy(policy, tmp_path / "policy_best.npz")
    config, _ = eval_command.load(run, "best")
    spec = score.make(name, config).spec
    assert (spec.max_episode_steps, spec.kwargs["reset_noise_scale"]) == (40, 0.02)
    assert "reset_noise_scale" not in score.make("InvertedPendulum-v4", config).spec.kwargs
    assert score.make("InvertedPendulum-v4", config).spec.max_episode_steps == 40

    assert score.main([run, "--episodes=3", "--processes=1"]) == 0
    assert capsys.readouterr().out.count("length 40,") == 2
    assert eval_command.main([run, "--episodes=3"]) == 0
    assert capsys.readouterr().out.count("length 40,") == 1
    task, episodes = episodes_of(config, [policy], [""], 1000.0, 0)
    assert [len(episode.rewards) for episode in episodes] == [40]
    assert task.args.reset_noise_scale == 0.02
    monkeypatch.setattr(sys, "argv", ["play_in_gymnasium", run])
    runpy.run_module("td3_brax.examples.play_in_gymnasium", run_name="__main__")
    assert capsys.readouterr().out.endswith("return 40\n")


def test_the_example_that_plays_a_policy_in_gymnasium() -> None:
    argv = [
        sys.executable,
        "-m",
        "td3_brax.examples.play_in_gymnasium",
        str(POLICIES / "InvertedPendulum-v5.npz"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    assert names(done.stdout, ["InvertedPendulum-v5", "1,000"])
