"""Which models the arithmetic of this folder covers, and what of another it lacks, by name."""

from __future__ import annotations

import mujoco
import numpy as np

from td3_brax.envs.rigid.pairs import touching
from td3_brax.envs.rigid.tree import GEOM, JOINT

KNOWN_FLAGS = int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)
INTEGRATORS = (mujoco.mjtIntegrator.mjINT_EULER, mujoco.mjtIntegrator.mjINT_RK4)


def lacks(model: mujoco.MjModel) -> list[str]:
    """What ``model`` has that is not covered; nothing where all is."""
    option, joints = model.opt, model.actuator_trnid[:, 0]
    pairs = np.array(touching(model), int).reshape(-1, 2)
    types = model.geom_type[pairs]
    weld = model.body_weldid[model.geom_bodyid[pairs]]
    planes = types == GEOM.mjGEOM_PLANE
    round_ones = (types == GEOM.mjGEOM_SPHERE) | (types == GEOM.mjGEOM_CAPSULE)
    dim = model.geom_condim[pairs].max(axis=1)
    motors = (
        (model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT)
        & (model.actuator_gaintype == mujoco.mjtGain.mjGAIN_FIXED)
        & (model.actuator_biastype == mujoco.mjtBias.mjBIAS_NONE)
        & (model.actuator_gainprm[:, 0] == 1)
        & ~model.actuator_forcelimited.astype(bool)
    )
    features = {
        "ball joints": (model.jnt_type == JOINT.mjJNT_BALL).any(),
        "a free joint that is not the first": (model.jnt_type[1:] == JOINT.mjJNT_FREE).any(),
        "no joints": model.njnt == 0,
        "shapes that touch and are not planes, spheres or capsules": not (planes | round_ones).all(),
        "planes that move": (planes & (weld != 0)).any(),
        "shapes of the world that are not planes": (~planes & (weld == 0)).any(),
        "contacts that turn or roll": not np.isin(dim, (1, 3)).all(),
        "explicit pairs or exclusions of contacts": model.npair or model.nexclude,
        "contact priorities or gaps": model.geom_priority.any() or model.geom_gap.any(),
        "friction in joints": model.dof_frictionloss.any(),
        "equality constraints": model.neq,
        "tendons": model.ntendon,
        "bodies moved from outside": model.nmocap,
        "compensated gravity": model.body_gravcomp.any(),
        "a fluid": option.density or option.viscosity,
        "activations": model.na,
        "actuators other than plain motors on hinges and slides": not motors.all()
        or (model.jnt_type[joints] == JOINT.mjJNT_FREE).any(),
        "joints with several motors": len(set(joints)) < model.nu,
        "joints of limited force": model.jnt_actfrclimited.any(),
        "elliptic friction cones": option.cone != mujoco.mjtCone.mjCONE_PYRAMIDAL,
        "another integrator than Euler's and Runge and Kutta's": option.integrator not in INTEGRATORS,
        "switches of MuJoCo's other than eulerdamp": option.disableflags & ~KNOWN_FLAGS or option.enableflags,
    }
    return [name for name, there in features.items() if there]
