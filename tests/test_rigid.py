"""Rigid bodies of our own against MJX's, one step from the same states."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from visits import percentile

from td3_brax.config import Config
from td3_brax.envs.physics.mjx.dynamics import State
from td3_brax.envs.physics.mjx.patched import mjx, precise
from td3_brax.envs.physics.rigid.physics import ITERATIONS, LINE_SEARCH, RigidPhysics
from td3_brax.envs.physics.rigid.steps import BLOCK, Steps
from td3_brax.envs.suppress import suppress_warnings
from td3_brax.envs.tasks import gymnasium
from td3_brax.envs.tasks.brax import BraxTask, model_of
from td3_brax.names import GYMNASIUM_TASKS
from td3_brax.option import ConfigError

CRAB = """
<mujoco>
  <option timestep="0.005" iterations="1" ls_iterations="6" gravity="0.5 0 -9.81"/>
  <default>
    <geom contype="0" conaffinity="0" density="300" friction="0.8 0.1 0.1" margin="0.004" solref="0.06 1"/>
    <joint damping="2" armature="0.1" limited="true" range="-60 60" solreflimit="0.06 1"/>
  </default>
  <worldbody>
    <geom type="plane" size="9 9 9" conaffinity="1" condim="3"/>
    <body pos="0 0 0.5">
      <freejoint/>
      <geom type="box" size="0.2 0.15 0.05" pos="0.02 0 0"/>
      <body pos="0.2 0.1 0" quat="0.9 0.1 0.2 0.3">
        <joint type="hinge" axis="0 1 0" stiffness="3" springref="10"/>
        <geom type="capsule" fromto="0 0 0 0.2 0.1 -0.2" size="0.04" contype="1"/>
        <body pos="0.2 0.1 -0.2">
          <joint type="slide" axis="0 0.3 1" range="-0.1 0.1"/>
          <geom type="sphere" size="0.07" contype="1" pos="0.02 0 -0.1"/>
        </body>
      </body>
      <body pos="-0.2 0.1 0" quat="0.8 0.1 -0.2 0.3">
        <joint type="hinge" axis="1 1 0" pos="0.01 0.02 0"/>
        <geom type="capsule" fromto="0 0 0 -0.2 0.1 -0.2" size="0.05" contype="1"/>
        <body pos="0.1 0.1 -0.2">
          <geom type="sphere" size="0.06" contype="1" condim="1"/>
        </body>
      </body>
      <body pos="0 -0.2 0">
        <joint type="hinge" axis="1 0 0"/>
        <joint type="hinge" axis="0 1 0" pos="0 0 0.03"/>
        <geom type="capsule" fromto="0 0 0 0 -0.1 -0.3" size="0.04" contype="1"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="spin" gear="4" ctrllimited="true" ctrlrange="-0.5 0.5"/>
  </actuator>
</mujoco>
""".replace('<joint type="hinge" axis="1 0 0"/>', '<joint name="spin" type="hinge" axis="1 0 0"/>')

POGO = """
<mujoco>
  <option timestep="0.005" iterations="1" ls_iterations="6"/>
  <worldbody>
    <geom type="plane" size="9 9 9"/>
    <body pos="0 0 0.3">
      <joint type="slide" axis="0 0 1"/>
      <joint type="hinge" axis="0 1 0" limited="true" range="-60 60"/>
      <geom type="sphere" size="0.2" pos="0.1 0 0" density="300"/>
    </body>
  </worldbody>
</mujoco>
"""


TWINS = """
<mujoco>
  <option timestep="0.005" iterations="1" ls_iterations="6"/>
  <default><geom condim="3" friction="0.8" density="300"/></default>
  <worldbody>
    <geom type="plane" size="9 9 9" contype="0"/>
    <body pos="0 0 0.3">
      <freejoint/>
      <geom type="box" size="0.1 0.2 0.05" contype="0" conaffinity="0"/>
      <body pos="0 0.2 0">
        <joint name="left" type="hinge" axis="0 1 0"/>
        <geom type="sphere" size="0.1" pos="0.1 0 -0.1" conaffinity="0"/>
      </body>
      <body pos="0 -0.2 0">
        <joint name="right" type="hinge" axis="0 1 0.2"/>
        <geom type="sphere" size="0.12" pos="-0.1 0 -0.1" conaffinity="0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="right" gear="2"/><motor joint="left" gear="3"/></actuator>
</mujoco>
"""


@suppress_warnings()  # or MuJoCo would leave a log of those that fly apart
def wandered(model: mujoco.MjModel, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """States that C MuJoCo passes through under held random controls, some kicked; controls for them."""
    rng, data, rows = np.random.default_rng(seed), mujoco.MjData(model), []
    while len(rows) < count:
        mujoco.mj_resetData(model, data)
        data.qvel[:] = rng.normal(size=model.nv) * rng.choice([0.1, 2])
        data.qpos[7:] += rng.uniform(-0.5, 0.5, max(model.nq - 7, 0))
        for step in range(rng.integers(20, 400)):
            if step % 10 == 0:
                data.ctrl[:] = rng.uniform(-1, 1, model.nu)
            if step % 7 == 0:
                row = data.qpos, data.qvel, data.qacc_warmstart, rng.uniform(-1, 1, model.nu)
                rows.append([np.array(x, np.float32) for x in row])
            mujoco.mj_step(model, data)
    picked = rng.permutation(len(rows))[:count]
    return tuple(np.stack([rows[i][k] for i in picked]) for k in range(4))


def mjxs(model: mujoco.MjModel, states: tuple[Any, ...]) -> Any:
    on_device = mjx.put_model(model, impl="jax")

    def step(qpos: jax.Array, qvel: jax.Array, qacc: jax.Array, ctrl: jax.Array) -> Any:
        d = mjx.make_data(on_device).replace(qpos=qpos, qvel=qvel, qacc_warmstart=qacc, ctrl=ctrl)
        d = mjx.step(on_device, d)
        return d.qpos, d.qvel, d.qacc, d.xpos, (d._impl.contact.dist < 0).sum()

    with precise():
        return jax.device_get(jax.jit(jax.vmap(step))(*states))


def ours(physics: RigidPhysics, states: tuple[Any, ...]) -> Any:
    def step(qpos: jax.Array, qvel: jax.Array, qacc: jax.Array, ctrl: jax.Array) -> Any:
        state = State(qpos=qpos, qvel=qvel, qacc=qacc)
        after, bodies = physics.step(state, None, ctrl, lambda seen: seen.xpos, 1)
        return after.qpos, after.qvel, after.qacc, bodies

    return jax.device_get(jax.jit(jax.vmap(step))(*states))


def robot(name: str) -> mujoco.MjModel:
    if text := {"crab": CRAB, "pogo": POGO, "twins": TWINS}.get(name):
        return mujoco.MjModel.from_xml_string(text)
    return model_of(BraxTask("ant", physics="mjx")._env)


@pytest.mark.slow
def test_a_step_of_the_ant_is_mjxs() -> None:
    """To float32's rounding: the largest accelerations are some thousands."""
    model = robot("ant")
    states = wandered(model, 1000)
    *wanted, touching = mjxs(model, states)
    assert (touching > 0).mean() > 0.2
    got = ours(RigidPhysics(model), states)
    for mine, theirs, typical, worst in zip(
        got, wanted, (1e-6, 1e-4, 1e-2, 1e-6), (1e-5, 1e-3, 1e-1, 1e-5), strict=True
    ):
        assert percentile(mine, theirs) < typical
        assert percentile(mine, theirs, 100) < worst


def test_so_is_one_of_a_robot_never_seen_before() -> None:
    """In double precision, where rounding hides nothing."""
    model = robot("crab")
    with jax.enable_x64(True):
        states = tuple(jnp.asarray(x, jnp.float64) for x in wandered(model, 100))
        *wanted, touching = mjxs(model, states)
        got = ours(RigidPhysics(model), states)
    assert got[0].dtype == np.float64
    assert (touching > 0).mean() > 0.2
    for mine, theirs, close in zip(got, wanted, (1e-10, 1e-8, 1e-6, 1e-10), strict=True):
        assert percentile(mine, theirs, 100) < close


def test_alike_legs_share_arrays() -> None:
    """The crab's have different joints, the ant's the same."""
    crab, ant = (RigidPhysics(robot(name))._dynamics.tree.links for name in ("crab", "ant"))
    assert [link.lanes for link in crab] == [1, 1, 1, 1, 1]
    assert [link.lanes for link in ant] == [1, 4, 4]


def test_members_and_environments_are_taken_together() -> None:
    model = robot("pogo")
    physics, states = RigidPhysics(model), wandered(model, 12)

    def step(qpos: jax.Array, qvel: jax.Array, qacc: jax.Array, ctrl: jax.Array) -> Any:
        return physics.step(State(qpos=qpos, qvel=qvel, qacc=qacc), None, ctrl, lambda seen: seen, 2)

    flat = jax.jit(jax.vmap(step))(*states)
    folded = jax.jit(jax.vmap(jax.vmap(step)))(*(x.reshape(3, 4, -1) for x in states))
    for a, b in zip(jax.tree.leaves(flat), jax.tree.leaves(folded), strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), rtol=1e-4, atol=1e-4)
    assert flat[1].cfrc_ext.shape == (12, model.nbody, 6)


@pytest.mark.parametrize(
    "name", ["pogo", "twins", "InvertedPendulum-v5", pytest.param("Hopper-v5", marks=pytest.mark.slow)]
)
def test_a_kernels_steps_are_the_same(name: str) -> None:
    """As arithmetic: what a GPU's own functions round differently is not to be seen here."""
    if name in GYMNASIUM_TASKS:
        model, iterations = gymnasium.make(name, {}).model, 4
    else:
        model, iterations = robot(name), 0
    steps = Steps(model, iterations, 8)
    assert (max(link.lanes for link in steps.dynamics.tree.links) > 1) == (name == "twins")
    with jax.enable_x64(True):
        states = tuple(jnp.asarray(x, jnp.float64) for x in wandered(model, 40))
        wanted = jax.jit(partial(steps.run_arrays, frames=2))(*states)
        got = jax.jit(partial(steps.run_kernel, frames=2, interpret=True))(*states)
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert np.isfinite(mine).all()
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_a_robot_moves_as_alone_however_many_there_are() -> None:
    """A CPU takes them in blocks, whose solver stops when the last of them is solved."""
    steps = Steps(gymnasium.make("Hopper-v5", {}).model, ITERATIONS, LINE_SEARCH)
    with jax.enable_x64(True):
        states = tuple(jnp.asarray(x, jnp.float64) for x in wandered(steps.model, 2 * BLOCK))
        many = jax.jit(partial(steps, 2))(*states)
        to_the_end = jax.jit(partial(steps.run_arrays, frames=2))(*states)
        few = jax.jit(partial(steps, 2))(*(x[BLOCK - 2 : BLOCK + 1] for x in states))
    for mine, theirs, alone in zip(many, to_the_end, few, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(mine[BLOCK - 2 : BLOCK + 1], alone, rtol=1e-11, atol=1e-11)


def test_a_program_on_a_cpu_repeats_little() -> None:
    """XLA would otherwise make a hundred times the instructions, and take minutes."""
    physics = RigidPhysics(robot("ant"))
    states = wandered(physics.mj_model, 8)

    def step(qpos: jax.Array, qvel: jax.Array, qacc: jax.Array, ctrl: jax.Array) -> Any:
        return physics.step(State(qpos=qpos, qvel=qvel, qacc=qacc), None, ctrl, lambda seen: (), 5)[0]

    lowered = jax.jit(jax.vmap(step)).lower(*states)
    written = lowered.as_text().count("stablehlo.")
    assert (lowered.compile().as_text() or "").count("\n") < 5 * written


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ('<joint type="hinge" axis="1 1 0"', '<joint type="ball" limited="false"', "ball joints"),
        ('<geom type="sphere" size="0.07"', '<geom type="ellipsoid" size="1 1 1"', "colliding geoms other"),
        ("<option ", '<option density="1.2" ', "a fluid"),
        ("<option ", '<option cone="elliptic" ', "elliptic friction cones"),
        ("<option ", '<option integrator="implicitfast" ', "an integrator other"),
        ("<motor ", '<position kp="3" ', "actuators other than motors"),
        ('condim="1"', 'condim="6"', "torsional or rolling friction"),
    ],
)
def test_what_a_model_lacks_is_named(old: str, new: str, name: str) -> None:
    text = CRAB.replace(old, new)
    if "position" in new:
        text = text.replace('gear="4" ', "")
    assert text != CRAB
    with pytest.raises(ValueError, match=name):
        RigidPhysics(mujoco.MjModel.from_xml_string(text))
    RigidPhysics(mujoco.MjModel.from_xml_string(CRAB))


def brax_task(name: str, physics: str) -> BraxTask:
    return BraxTask(name, physics=physics)


def gymnasium_task(name: str, physics: str) -> Any:
    return gymnasium.make(name, {}, physics)


@pytest.mark.parametrize(
    ("make", "name", "why"),
    [
        (brax_task, "humanoid", r"xd\.vel"),
        (gymnasium_task, "Swimmer-v5", "fluid"),
    ],
)
def test_a_task_that_is_not_covered_says_why(make: Any, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"--physics=fast: .*{name}.*{why}"):
        make(name, "fast")
    make(name, "auto")


@pytest.mark.parametrize("options", [{"backend": "spring"}, {"env": "playground:CheetahRun"}])
def test_physics_of_their_own_are_not_replaced(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--physics=fast: "):
        Config(physics="fast", **options)
