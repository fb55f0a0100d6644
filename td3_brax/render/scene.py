"""What there is to see of a model: its visible shapes, and where they are."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

GROUPS = (0, 1, 2)
"""Of geoms, those that MuJoCo's own viewer shows."""
KINDS = {
    mujoco.mjtGeom.mjGEOM_SPHERE: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
}


@dataclass(frozen=True)
class Shape:
    """One visible geom."""

    geom: int
    kind: str
    size: tuple[float, float, float]
    rgba: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """The visible shapes of a model, its ground, and the side to look from."""

    shapes: tuple[Shape, ...]
    ground: float | None
    """Its height, if there is one."""
    flat: bool
    """Whether all moves in the plane of x and z."""
    above: bool
    """Whether all moves in a plane that is looked at from above."""
    size: float
    """About as long as the robot, in metres."""

    @property
    def azimuth(self) -> float:
        """Of a camera, in degrees."""
        return 90.0 if self.flat or self.above else 120.0

    @property
    def elevation(self) -> float:
        """Of a camera, in degrees."""
        return -89.0 if self.above else -8.0 if self.flat else -22.0


def look(model: mujoco.MjModel) -> Scene:
    """What there is to see of ``model``."""
    shapes, ground = [], None
    for geom in range(model.ngeom):
        kind = mujoco.mjtGeom(model.geom_type[geom])
        material = model.geom_matid[geom]
        rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
        if kind == mujoco.mjtGeom.mjGEOM_PLANE:
            ground = float(model.geom_pos[geom][2])
        elif kind in KINDS and model.geom_group[geom] in GROUPS and rgba[3] > 0:
            size, color = (tuple(float(x) for x in values) for values in (model.geom_size[geom], rgba))
            shapes.append(Shape(geom, KINDS[kind], size, color))  # type: ignore[arg-type]
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    where = np.array([data.geom_xpos[shape.geom] for shape in shapes])
    reach = np.array([[float(model.geom_rbound[shape.geom])] for shape in shapes])
    spans = (where + reach).max(axis=0) - (where - reach).min(axis=0)
    axes = [model.jnt_axis[j] for j in range(model.njnt)]
    kinds = [mujoco.mjtJoint(kind) for kind in model.jnt_type]
    free = mujoco.mjtJoint.mjJNT_FREE in kinds or mujoco.mjtJoint.mjJNT_BALL in kinds
    hinge = mujoco.mjtJoint.mjJNT_HINGE
    turns = [axis for axis, kind in zip(axes, kinds, strict=True) if kind == hinge]
    return Scene(
        shapes=tuple(shapes),
        ground=ground,
        flat=not free and all(abs(axis[1]) > 0.99 for axis in turns),
        above=not free and all(abs(axis[2]) > 0.99 for axis in turns),
        size=float(np.sort(spans)[-2:].mean()),
    )


@dataclass(frozen=True)
class Poses:
    """Where the shapes of a scene are in F frames."""

    positions: np.ndarray
    """[F, shapes, 3]"""
    rotations: np.ndarray
    """[F, shapes, 3, 3]"""
    center: np.ndarray
    """[F, 3], the centre of mass of what moves."""


def poses(model: mujoco.MjModel, scene: Scene, qpos: np.ndarray) -> Poses:
    """Of positions [F, nq], by MuJoCo's kinematics."""
    data = mujoco.MjData(model)
    geoms = [shape.geom for shape in scene.shapes]
    positions, rotations, center = [], [], []
    for frame in qpos:
        data.qpos = frame
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        positions.append(data.geom_xpos[geoms].copy())
        rotations.append(data.geom_xmat[geoms].reshape(-1, 3, 3).copy())
        center.append(data.subtree_com[1].copy())
    return Poses(np.array(positions), np.array(rotations), np.array(center))
