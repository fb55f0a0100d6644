"""Random MJCF: each model is stepped as C MuJoCo steps it, or refused by name."""

from __future__ import annotations

import collections
from typing import Any
from xml.etree import ElementTree

import fuzz
import jax
import jax.numpy as jnp
import mujoco
import pytest
from test_rigid import CRAB

from td3_brax.envs.physics.mjx.dynamics import Physics
from td3_brax.envs.physics.rigid import unsupported
from td3_brax.envs.physics.rigid.physics import RigidPhysics
from td3_brax.envs.physics.rigid.steps import Steps

SEEDS = range(40)
FIRST = 16
"""Seeds that every run of the tests has; the others are slow."""
"""More of them: ``python tests/bench/fuzz.py 1000``."""

BALL = """
<mujoco>
  <option OPTION/>
  <worldbody>
    <geom type="plane" size="1 1 1" GROUND/>
    <body name="ball" pos="0 0 0.095" BODY>
      <joint type="free" FREE/>
      <geom name="ball" type="sphere" size="0.1" GEOM/>
      <site name="middle"/>
      <body pos="0 0.3 0.1">
        <joint name="arm" type="hinge" axis="0 1 0" damping="0.1" JOINT/>
        <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.04" contype="0"/>
      </body>
      <body pos="0 -0.3 0.1">
        <joint name="other" type="hinge" axis="0 1 0" damping="0.1" JOINT/>
        <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.04" contype="0"/>
      </body>
    </body>
  </worldbody>
  <actuator>ACTUATOR</actuator>
</mujoco>
"""
RIGHT = ""
CASES: list[tuple[dict[str, str], str]] = [
    ({}, RIGHT),
    ({"GROUND": 'solref="-100 -10"', "GEOM": 'solref="0.02 1"'}, RIGHT),
    ({"GROUND": 'solref="-2000 -50"', "GEOM": 'solref="-5000 -100"'}, RIGHT),
    ({"GROUND": 'solref="0.02 -1"', "GEOM": 'solref="0.03 -1"'}, RIGHT),
    ({"GROUND": 'solmix="0"', "GEOM": 'solmix="0"'}, RIGHT),
    ({"GROUND": 'solmix="0"', "GEOM": 'solref="0.05 1"'}, RIGHT),
    ({"GROUND": 'friction="0"', "GEOM": 'friction="0"'}, RIGHT),
    ({"GROUND": 'solimp="0.3 0.9 0"', "GEOM": 'solimp="0.3 0.9 0"'}, RIGHT),
    ({"JOINT": 'limited="true" range="-10 10" solimplimit="0.3 0.9 0" solreflimit="-300 -10"'}, RIGHT),
    ({"ACTUATOR": '<motor joint="other" gear="3"/>'}, RIGHT),
    ({"OPTION": 'integrator="RK4"'}, RIGHT),
    ({"OPTION": 'gravity="0 0 0"', "GROUND": 'pos="0 0 -9"'}, RIGHT),
    ({"JOINT": 'limited="true" range="-3 3" margin="0.1"'}, "joint limits with overlapping margins"),
    ({"JOINT": 'damping=".3 .5 .2"'}, "nonlinear damping"),
    ({"JOINT": 'stiffness="2 5 3"'}, "nonlinear springs"),
    ({"JOINT": 'frictionloss="1"'}, "joint friction loss"),
    ({"FREE": 'stiffness="3"'}, "a free joint with a spring"),
    ({"BODY": 'gravcomp="1"'}, "gravity compensation"),
    ({"GEOM": 'surfacevel="1 0 0 0 0 0"'}, "moving surfaces"),
    ({"GEOM": 'adhesion="3"'}, "adhesive geoms"),
    ({"GEOM": 'priority="1"'}, "contact priorities or gaps"),
    ({"OPTION": 'noslip_iterations="3"'}, "a solver other than Newton"),
    (
        {"OPTION": 'actuatorgroupdisable="0"', "ACTUATOR": '<motor joint="arm"/>'},
        "disabled actuator groups",
    ),
    ({"ACTUATOR": '<motor joint="arm" armature=".2"/>'}, "actuators with armature or damping"),
    ({"ACTUATOR": '<motor joint="arm" damping=".5"/>'}, "actuators with armature or damping"),
    ({"ACTUATOR": '<motor joint="arm" delay=".01" nsample="4"/>'}, "actuators or sensors with a delay"),
    ({"ACTUATOR": '<motor site="middle"/>'}, "actuators other than motors on hinge or slide joints"),
    (
        {"ACTUATOR": '<position joint="arm" kp="3"/>'},
        "actuators other than motors on hinge or slide joints",
    ),
]


@pytest.mark.parametrize(
    "seed", [*SEEDS[:FIRST], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[FIRST:])]
)
def test_a_random_model_is_right_or_refused(seed: int) -> None:
    if verdict := fuzz.of_seed(seed):
        off = verdict.error * fuzz.CLOSE
        assert not verdict.wrong, f"off by {off:.1g}: {verdict.changed}\n{verdict.text}"


def test_many_are_neither_all_refused_nor_all_plain() -> None:
    """Or the fuzz would show nothing. Drawing takes no time, steps do."""
    counts = collections.Counter()  # type: collections.Counter[bool]
    for seed in SEEDS:
        root, _ = fuzz.drawn(seed)
        model = fuzz.compiled(root)
        assert model is not None
        counts[bool(unsupported.unsupported_features(model))] += 1
    assert min(counts.values()) > len(SEEDS) / 4


CAPSULES = """
<mujoco>
  <worldbody>
    <body><joint axis="{0}"/><geom type="capsule" size=".1 .3" pos="{1}"/></body>
    <body pos="0.05 0 0.1"><joint axis="{0}"/><geom type="capsule" size=".1 .3" pos="{1}"/></body>
  </worldbody>
</mujoco>
"""


def test_capsules_that_cross_in_a_plane() -> None:
    """No direction leads from one to the other."""
    verdict = fuzz.judged(ElementTree.fromstring(CAPSULES.format("0 1 0", "0 0 0.05")), 1, [])
    assert verdict is not None
    assert not verdict.refused
    assert verdict.error < 1


def test_capsules_that_stay_parallel_are_refused() -> None:
    """They touch at two points."""
    model = mujoco.MjModel.from_xml_string(CAPSULES.format("0 0 1", "0.05 0 0"))
    assert unsupported.unsupported_features(model) == ["capsules that stay parallel"]


def test_contacts_of_bodies_that_cannot_give_way_are_refused() -> None:
    """Each turns about its centre of mass: MuJoCo thinks that no force moves it, and rounding decides."""
    model = mujoco.MjModel.from_xml_string(CAPSULES.format("0 1 0", "0 0 0"))
    assert unsupported.unsupported_features(model) == ["contacts between immovable bodies"]


@pytest.mark.parametrize("integrator", ["Euler", "RK4"])
def test_a_robot_that_only_falls(integrator: str) -> None:
    """Its acceleration is a constant."""
    text = f"""
    <mujoco>
      <option integrator="{integrator}"/>
      <worldbody><body><joint type="slide" axis="0 0.6 0.8"/><geom size="0.1"/></body></worldbody>
    </mujoco>
    """
    verdict = fuzz.judged(ElementTree.fromstring(text), 1, [])
    assert verdict is not None
    assert verdict.error < 1


@pytest.mark.parametrize(("parts", "name"), CASES, ids=[" ".join(parts.values()) for parts, _ in CASES])
def test_a_feature_is_right_or_refused_by_its_name(parts: dict[str, str], name: str) -> None:
    text = BALL
    for place in ("OPTION", "GROUND", "BODY", "FREE", "GEOM", "JOINT", "ACTUATOR"):
        more = parts.get(place, "")
        if place == "JOINT" and "damping" in more:
            text = text.replace('damping="0.1"', "")
        text = text.replace(place, more)
    verdict = fuzz.judged(ElementTree.fromstring(text), 1, [])
    assert verdict is not None
    assert verdict.refused == ([name] if name else [])
    assert not verdict.wrong
    if name:
        for physics in (RigidPhysics, Physics):
            with pytest.raises(ValueError, match=name):
                physics(mujoco.MjModel.from_xml_string(text))


class Watched:
    """A model, or its options, that notes which of its fields are read."""

    def __init__(self, of: Any, seen: set[str], before: str = "") -> None:
        self._of, self._seen, self._before = of, seen, before

    def __getattr__(self, name: str) -> Any:
        if name == "opt":
            return Watched(self._of.opt, self._seen, "opt.")
        self._seen.add(self._before + name)
        return getattr(self._of, name)


@pytest.mark.parametrize("iterations", [0, 4])
def test_what_is_read_is_known_to_be(iterations: int) -> None:
    """The list of what must be off is all that is not read."""
    seen: set[str] = set()
    model = mujoco.MjModel.from_xml_string(CRAB)
    shapes = [
        jax.ShapeDtypeStruct((2, size), jnp.float32) for size in (model.nq, model.nv, model.nv, model.nu)
    ]
    steps = Steps(Watched(model, seen), iterations, 3)  # type: ignore[arg-type]
    jax.eval_shape(lambda *x: steps.run_arrays(*x, frames=1), *shapes)
    assert len(seen) > 30
    assert seen <= unsupported.READ | unsupported.DERIVED


def test_a_field_that_nobody_knows_must_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a later MuJoCo may bring: the stiffness of springs, were it not read."""
    model = mujoco.MjModel.from_xml_string(CRAB)
    assert unsupported.unsupported_features(model) == []
    monkeypatch.setattr(unsupported, "READ", unsupported.READ - {"jnt_stiffness"})
    assert unsupported.unsupported_features(model) == ["jnt_stiffness"]
