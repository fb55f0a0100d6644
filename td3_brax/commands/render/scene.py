"""Find the visible shapes of a MuJoCo model, and where they are in each frame.

Meshes and height fields become triangles. If a robot hides all its shapes they are shown anyway; if it has
none, its bodies are shown as boxes with the bodies' inertia.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

GROUPS = (0, 1, 2)
"""Geom groups that MuJoCo's own viewer shows."""
KINDS = {
    mujoco.mjtGeom.mjGEOM_SPHERE: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
    mujoco.mjtGeom.mjGEOM_MESH: "mesh",
    mujoco.mjtGeom.mjGEOM_SDF: "mesh",
    mujoco.mjtGeom.mjGEOM_HFIELD: "heights",
}
GREY = (0.5, 0.5, 0.5, 1.0)


@dataclass(frozen=True)
class Surface:
    """The triangles of a mesh or a height field."""

    vertices: np.ndarray
    """[V, 3] positions in the shape's frame."""
    faces: np.ndarray
    """[F, 3] indices of the vertices of each triangle, counterclockwise seen from outside."""


@dataclass(frozen=True)
class Shape:
    """A visible geom, or a box with a body's inertia."""

    geom: int
    """Index of the geom; -1 for a body's inertia."""
    body: int
    """Index of the body it belongs to."""
    kind: str
    """``sphere``, ``capsule``, ``ellipsoid``, ``cylinder``, ``box`` or ``surface``."""
    size: tuple[float, float, float]
    rgba: tuple[float, float, float, float]
    surface: int = -1
    """Index in the scene's surfaces; -1 if it is not a surface."""


@dataclass(frozen=True)
class Scene:
    """The visible shapes of a model, its ground, and where to look from."""

    shapes: tuple[Shape, ...]
    surfaces: tuple[Surface, ...]
    ground: float | None
    """Height of the ground; None if there is none."""
    flat: bool
    """Whether the robot can only move in the plane of x and z."""
    above: bool
    """Whether the robot can only move in the plane of x and y, which is seen from above."""
    travels: bool
    """Whether the robot as a whole can move along x, so that its speed is worth showing."""
    size: float
    """Approximate length of the robot, in metres."""
    root: int
    """Index of the first body that moves."""

    @property
    def azimuth(self) -> float:
        """Azimuth of the camera, in degrees."""
        return 90.0 if self.flat or self.above else 120.0

    @property
    def elevation(self) -> float:
        """Elevation of the camera, in degrees."""
        return -89.0 if self.above else -8.0 if self.flat else -22.0

    @property
    def distance(self) -> float:
        """Distance of the camera from the robot, in metres."""
        return (2.4 if self.elevation < -15 else 3.0) * self.size


def make_scene(model: mujoco.MjModel) -> Scene:
    """Find the visible shapes of ``model``, its ground, and where to look from."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    shapes, surfaces = _shapes(model)
    axes = [model.jnt_axis[j] for j in range(model.njnt)]
    kinds = [mujoco.mjtJoint(kind) for kind in model.jnt_type]
    hinge, slide, whole = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_FREE
    free = whole in kinds or mujoco.mjtJoint.mjJNT_BALL in kinds
    turns = [axis for axis, kind in zip(axes, kinds, strict=True) if kind == hinge]
    root = int(model.body_rootid[model.jnt_bodyid[0]]) if model.njnt else min(1, model.nbody - 1)
    first = [j for j in range(model.njnt) if model.jnt_bodyid[j] == root]
    return Scene(
        shapes=shapes,
        surfaces=surfaces,
        ground=_ground(model, data),
        flat=not free and all(abs(axis[1]) > 0.99 for axis in turns),
        above=not free and all(abs(axis[2]) > 0.99 for axis in turns),
        travels=any(kinds[j] == whole or (kinds[j] == slide and abs(axes[j][0]) > 0.7) for j in first),
        size=_size(model, data, shapes),
        root=root,
    )


def _shapes(model: mujoco.MjModel) -> tuple[tuple[Shape, ...], tuple[Surface, ...]]:
    """Return the visible shapes, or else all shapes, or else boxes with the bodies' inertia."""
    opaque = [g for g in range(model.ngeom) if _kind(model, g) in KINDS and _color(model, g)[3] > 0]
    opaque = [g for g in opaque if KINDS[_kind(model, g)] not in TRIANGLES or model.geom_dataid[g] >= 0]
    shown = [g for g in opaque if model.geom_group[g] in GROUPS] or opaque
    surfaces: dict[tuple[str, int], Surface] = {}
    shapes = []
    for geom in shown:
        kind, source = KINDS[_kind(model, geom)], int(model.geom_dataid[geom])
        size: tuple[float, float, float] = tuple(map(float, model.geom_size[geom]))  # type: ignore[assignment]
        place = -1
        if kind in TRIANGLES:
            if (kind, source) not in surfaces:
                surfaces[kind, source] = TRIANGLES[kind](model, source)
            place = list(surfaces).index((kind, source))
            kind = "surface"
        shapes.append(Shape(geom, int(model.geom_bodyid[geom]), kind, size, _color(model, geom), place))
    if not shapes:
        shapes = [
            Shape(-1, b, "box", _inertia(model, b), GREY) for b in range(1, model.nbody) if model.body_mass[b]
        ]
    return tuple(shapes), tuple(surfaces.values())


def _kind(model: mujoco.MjModel, geom: int) -> mujoco.mjtGeom:
    """Return the type of a geom."""
    return mujoco.mjtGeom(model.geom_type[geom])


def _color(model: mujoco.MjModel, geom: int) -> tuple[float, float, float, float]:
    """Return the RGBA colour of a geom, or of its material if it has one."""
    material = model.geom_matid[geom]
    rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
    return tuple(map(float, rgba))  # type: ignore[return-value]


def _mesh(model: mujoco.MjModel, mesh: int) -> Surface:
    """Return the triangles of a mesh."""
    first, face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
    vertices = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
    return Surface(vertices.copy(), model.mesh_face[face : face + model.mesh_facenum[mesh]].copy())


def _heights(model: mujoco.MjModel, field: int) -> Surface:
    """Return the triangles of a height field, two per cell."""
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    x, y, top, _ = model.hfield_size[field]
    first = model.hfield_adr[field]
    z = top * model.hfield_data[first : first + rows * columns]
    along, across = np.meshgrid(np.linspace(-x, x, columns), np.linspace(-y, y, rows))
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    halves = [corner, corner + 1, corner + columns], [corner + 1, corner + columns + 1, corner + columns]
    faces = np.concatenate([np.stack(half, axis=1) for half in halves])
    return Surface(
        np.stack([along.ravel(), across.ravel(), z], axis=1).astype(np.float32), faces.astype(np.int32)
    )


TRIANGLES = {"mesh": _mesh, "heights": _heights}


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrix [3, 3] of a quaternion [4]."""
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _inertia(model: mujoco.MjModel, body: int) -> tuple[float, float, float]:
    """Return half the sides of a box with the inertia of ``body``, each at least a millimetre."""
    whole = model.body_inertia[body].sum() / 2 - model.body_inertia[body]
    return tuple(map(float, np.sqrt(3 * whole.clip(0) / model.body_mass[body]).clip(1e-3)))  # type: ignore[return-value]


def _ground(model: mujoco.MjModel, data: mujoco.MjData) -> float | None:
    """Return the height of the first horizontal plane; None if there is none."""
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE):
        if data.geom_xmat[geom, 8] > 0.9:
            return float(data.geom_xpos[geom, 2])
    return None


def _size(model: mujoco.MjModel, data: mujoco.MjData, shapes: tuple[Shape, ...]) -> float:
    """Return the mean of the two longest sides of the box around all shapes.

    Height fields count only if there is nothing else.
    """
    fields = mujoco.mjtGeom.mjGEOM_HFIELD
    measured = tuple(s for s in shapes if s.geom < 0 or model.geom_type[s.geom] != fields) or shapes
    if not measured:
        return 1.0
    at, _, ids = _places(data, measured)
    where = at[ids]
    reach = np.array(
        [[np.linalg.norm(s.size) if s.geom < 0 else model.geom_rbound[s.geom]] for s in measured]
    )
    spans = (where + reach).max(axis=0) - (where - reach).min(axis=0)
    return float(np.sort(spans)[-2:].mean())


@dataclass(frozen=True)
class Poses:
    """The positions and rotations of a scene's shapes in F frames."""

    positions: np.ndarray
    """[F, shapes, 3]"""
    rotations: np.ndarray
    """[F, shapes, 3, 3]"""
    center: np.ndarray
    """[F, 3] the robot's centre of mass."""


def poses(model: mujoco.MjModel, scene: Scene, qpos: np.ndarray) -> Poses:
    """Compute the poses for generalized positions [F, nq] with MuJoCo's kinematics."""
    data = mujoco.MjData(model)
    at, turned, ids = _places(data, scene.shapes)
    positions, rotations, center = [], [], []
    for frame in qpos:
        data.qpos = frame
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        positions.append(at[ids])
        rotations.append(turned[ids].reshape(-1, 3, 3))
        center.append(data.subtree_com[scene.root].copy())
    return Poses(np.array(positions), np.array(rotations), np.array(center))


def _places(data: mujoco.MjData, shapes: tuple[Shape, ...]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return views of ``data`` with positions [n, 3] and rotations [n, 9], and the row of each shape."""
    if any(shape.geom < 0 for shape in shapes):
        return data.xipos, data.ximat, [shape.body for shape in shapes]
    return data.geom_xpos, data.geom_xmat, [shape.geom for shape in shapes]


def shown_steps(length: int, stride: int) -> np.ndarray:
    """Return which of ``length`` steps are shown: one in ``stride``, and the last."""
    return np.unique(np.append(np.arange(0, length, stride), length - 1))
