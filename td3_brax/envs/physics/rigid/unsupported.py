"""The features of a MuJoCo model that the physics in this folder do not support, by name.

The check is closed: every field of the model that the physics do not read must be off, unless no time step
depends on it. So a field that a later version of MuJoCo adds is not ignored.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from td3_brax.envs.physics.rigid.pairs import collision_pairs
from td3_brax.envs.physics.rigid.tree import GEOM, JOINT


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


READ = frozenset(
    _words("""
    qpos0 qpos_spring
    body_parentid body_weldid body_jntadr body_jntnum body_pos body_quat body_ipos body_iquat body_mass
    body_inertia body_invweight0
    jnt_type jnt_qposadr jnt_dofadr jnt_limited jnt_solref jnt_solimp jnt_pos jnt_axis jnt_stiffness jnt_range
    jnt_margin
    dof_armature dof_damping dof_invweight0
    geom_type geom_contype geom_conaffinity geom_condim geom_bodyid geom_solmix geom_solref geom_solimp
    geom_size geom_pos geom_quat geom_friction geom_margin
    site_bodyid site_pos
    actuator_trnid actuator_ctrllimited actuator_ctrlrange actuator_gear
    opt.timestep opt.impratio opt.gravity opt.integrator opt.iterations opt.ls_iterations opt.tolerance
    opt.ls_tolerance opt.disableflags
    """)
)
"""Fields that the physics read."""

DERIVED = frozenset(
    _words("""
    nq nv nu nactuator nout nbody njnt ntree nM nB nC nD ngeom nJmom
    body_rootid body_dofnum body_dofadr body_treeid body_geomnum body_geomadr body_simple body_sameframe
    body_subtreemass body_margin body_contype body_conaffinity body_bvhadr body_bvhnum
    jnt_bodyid dof_bodyid dof_jntid dof_parentid dof_treeid dof_Madr dof_simplenum dof_M0 dof_length
    tree_bodyadr tree_bodynum tree_dofadr tree_dofnum
    geom_sameframe geom_aabb geom_rbound
    actuator_ctrladr actuator_outadr actuator_acc0 actuator_length0
    B_rownnz B_rowadr B_colind M_rownnz M_rowadr M_colind mapM2M D_rownnz D_rowadr D_diag D_colind
    mapM2D mapD2M
    """)
)
"""Fields that MuJoCo's compiler derives from the fields that are read."""

UNUSED = frozenset(
    _words("""
    dof_solref dof_solimp tree_sleep_policy jnt_actfrcrange geom_fluid geom_dataid
    actuator_dynprm actuator_biasprm actuator_actrange actuator_forcerange actuator_cranklength
    actuator_lengthrange
    opt.noslip_tolerance opt.ccd_tolerance opt.ccd_iterations opt.sleep_tolerance opt.wind opt.magnetic
    opt.o_margin opt.o_solref opt.o_solimp opt.o_friction opt.jacobian opt.sdf_initpoints opt.sdf_iterations
    """)
)
"""Fields that matter only together with an unsupported feature."""

IRRELEVANT_STARTS = _words("""
    vis stat signature names names_map paths narena nbuffer njmax nconmax nnames npaths nkey nmat ncam nlight
    nsite nuserdata npolygonmax nmeshdegmax nuser_ ntex nskin nmesh nhfield nbvh noct nsensor nnumeric ntext
    ntuple name_ key_ cam_ light_ mat_ tex_ skin_ mesh_ hfield_ bvh_ oct_ site_ sensor_ numeric_ text_ tuple_
    """)
"""Names, or starts of names, of fields that no time step reads: rendering, names, sensors, keyframes."""

IRRELEVANT_ENDS = ("_user", "_group", "_rgba", "_matid")
"""Ends of names of fields that no time step reads."""

OFF_VALUES: dict[str, Any] = {
    "body_mocapid": -1,
    "body_plugin": -1,
    "jnt_actuatorid": -1,
    "geom_plugin": -1,
    "actuator_plugin": -1,
    "actuator_actadr": -1,
    "actuator_historyadr": -1,
    "actuator_ctrlnum": 1,
    "actuator_outnum": 1,
    "actuator_trntype": mujoco.mjtTrn.mjTRN_JOINT,
    "actuator_gaintype": mujoco.mjtGain.mjGAIN_FIXED,
    "actuator_biastype": mujoco.mjtBias.mjBIAS_NONE,
    "actuator_dyntype": mujoco.mjtDyn.mjDYN_NONE,
    "actuator_gainprm": np.eye(1, mujoco.mjNGAIN)[0],
    "opt.solver": mujoco.mjtSolver.mjSOL_NEWTON,
    "opt.cone": mujoco.mjtCone.mjCONE_PYRAMIDAL,
}
"""Values of the remaining fields when their feature is off, if not 0."""

FLUID = "a fluid"
MOTORS = "actuators other than motors on hinge or slide joints"
FEATURES = {
    "actuators with armature or damping": "actuator_armature actuator_damping jnt_actuatorid",
    "actuators or sensors with a delay": "actuator_delay actuator_history nhistory",
    "actuator activations": "actuator_act na",
    MOTORS: "actuator_force actuator_trn actuator_dyn actuator_gain actuator_bias actuator_ctrl actuator_out",
    "disabled actuator groups": "opt.disableactuator",
    "joint force limits": "jnt_actfrclimited",
    "nonlinear springs": "jnt_stiffnesspoly",
    "nonlinear damping": "dof_dampingpoly",
    "joint friction loss": "dof_frictionloss",
    "mocap bodies": "body_mocapid nmocap",
    "gravity compensation": "body_gravcomp ngravcomp flg_gravcomp jnt_actgravcomp",
    "moving surfaces": "geom_surfacevel flg_surfacevel",
    "adhesive geoms": "geom_adhesion flg_adhesion",
    "contact priorities or gaps": "geom_priority geom_gap",
    "explicit contact pairs or exclusions": "npair pair_ nexclude exclude_",
    "equality constraints": "neq eq_ nemax",
    "tendons": "ntendon tendon_ ten_ nJten wrap_ nwrap",
    "flexible bodies": "flex nflex nJf efm nefm",
    "plugins": "plugin nplugin body_plugin geom_plugin actuator_plugin",
    FLUID: "opt.density opt.viscosity",
    "elliptic friction cones": "opt.cone",
    "a solver other than Newton": "opt.solver opt.noslip_iterations",
    "MuJoCo flags other than eulerdamp": "opt.enableflags",
}
"""Names of features, and starts of the names of their fields. Other fields are reported by their own name."""

KNOWN_FLAGS = int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)
INTEGRATORS = (mujoco.mjtIntegrator.mjINT_EULER, mujoco.mjtIntegrator.mjINT_RK4)


def fields(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Return the fields of ``model`` by name, options as ``opt.x``, without those that no time step reads."""
    of_model = {
        name: getattr(model, name) for name in dir(model) if not _is_irrelevant(name) and name != "opt"
    }
    of_option = {f"opt.{name}": getattr(model.opt, name) for name in dir(model.opt) if name[0] != "_"}
    return {key: np.asarray(x) for key, x in (of_model | of_option).items() if not callable(x)}


def _is_irrelevant(name: str) -> bool:
    """Return whether no time step reads the field ``name``."""
    return (name.startswith(("_", *IRRELEVANT_STARTS)) and name not in READ) or name.endswith(IRRELEVANT_ENDS)


def unsupported_features(model: mujoco.MjModel) -> list[str]:
    """Return the names of the features of ``model`` that are not supported."""
    known = READ | DERIVED | UNUSED
    left = {name: x for name, x in fields(model).items() if name not in known}
    on = [_feature_name(name) for name, x in left.items() if (x != np.asarray(OFF_VALUES.get(name, 0))).any()]
    return list(dict.fromkeys(on + _unsupported_values(model)))


def _feature_name(field: str) -> str:
    """Return the name of the feature of ``field``, or ``field`` itself."""
    return next((name for name, starts in FEATURES.items() if field.startswith(tuple(starts.split()))), field)


def _unsupported_values(model: mujoco.MjModel) -> list[str]:
    """Return unsupported features that show in the values of fields that are read."""
    joints = model.actuator_trnid[model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT, 0]
    free = model.jnt_type == JOINT.mjJNT_FREE
    pairs = np.array(collision_pairs(model), int).reshape(-1, 2)
    types = model.geom_type[pairs]
    weld = model.body_weldid[model.geom_bodyid[pairs]]
    planes = types == GEOM.mjGEOM_PLANE
    round_ones = (types == GEOM.mjGEOM_SPHERE) | (types == GEOM.mjGEOM_CAPSULE)
    dim = model.geom_condim[pairs].max(axis=1)
    give = model.body_invweight0[model.geom_bodyid[pairs], 0].sum(
        axis=1
    )  # 0: only rounding keeps it from being rigid
    features = {
        "ball joints": (model.jnt_type == JOINT.mjJNT_BALL).any(),
        "a free joint that is not the first": free[1:].any(),
        "a free joint with a spring": model.jnt_stiffness[free].any(),
        "joint limits with overlapping margins": _limits_overlap(model).any(),
        "no joints": model.njnt == 0,
        "colliding geoms other than planes, spheres and capsules": not (planes | round_ones).all(),
        "moving planes": (planes & (weld != 0)).any(),
        "colliding static geoms other than planes": (~planes & (weld == 0)).any(),
        "capsules that stay parallel": _any_stay_parallel(model, pairs),
        "contacts between immovable bodies": (give <= mujoco.mjMINVAL).any(),
        "torsional or rolling friction": not np.isin(dim, (1, 3)).all(),
        MOTORS: free[joints].any(),
        "joints with several motors": len(set(joints)) < len(joints),
        "an integrator other than Euler or RK4": model.opt.integrator not in INTEGRATORS,
        "MuJoCo flags other than eulerdamp": model.opt.disableflags & ~KNOWN_FLAGS,
    }
    return [name for name, present in features.items() if present]


def _any_stay_parallel(model: mujoco.MjModel, pairs: np.ndarray) -> bool:
    """Return whether any two capsules that can collide are parallel in all positions.

    Parallel capsules touch at two points, which is not supported.
    """
    capsules = pairs[(model.geom_type[pairs] == GEOM.mjGEOM_CAPSULE).all(axis=1)]
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    crossed = np.zeros(len(capsules), bool)
    for _ in range(3):
        data.qpos[:] = model.qpos0 + rng.uniform(-1, 1, model.nq)
        mujoco.mj_kinematics(model, data)
        one, two = data.geom_xmat.reshape(-1, 3, 3)[capsules.T, :, 2]
        crossed |= np.linalg.norm(np.cross(one, two), axis=1) > 1e-9
    return not crossed.all()


def _limits_overlap(model: mujoco.MjModel) -> np.ndarray:
    """Return [njnt]: whether both limits of a joint can be active at once."""
    limited = model.jnt_limited.astype(bool)
    return np.asarray(limited & (np.ptp(model.jnt_range, axis=1) < 2 * model.jnt_margin))
