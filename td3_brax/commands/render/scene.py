"""What there is to see of a model: its visible shapes, and where they are.

A mesh or a field of heights is triangles; a robot that hides all its shapes is shown with them, and one that
has none as boxes of its bodies' inertia.
"""

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
    mujoco.mjtGeom.mjGEOM_MESH: "mesh",
    mujoco.mjtGeom.mjGEOM_SDF: "mesh",
    mujoco.mjtGeom.mjGEOM_HFIELD: "heights",
}
GREY = (0.5, 0.5, 0.5, 1.0)


@dataclass(frozen=True)
class Surface:
    """Triangles of a mesh or a field of heights."""

    vertices: np.ndarray
    """[V, 3] in the shape's frame."""
    faces: np.ndarray
    """[F, 3] of them, counterclockwise from outside."""


@dataclass(frozen=True)
class Shape:
    """One visible geom, or the inertia of a body."""

    geom: int
    """-1: a body's inertia."""
    body: int
    kind: str
    """That of MuJoCo, or ``surface``."""
    size: tuple[float, float, float]
    rgba: tuple[float, float, float, float]
    surface: int = -1
    """Of the scene's, where it is one."""


@dataclass(frozen=True)
class Scene:
    """The visible shapes of a model, its ground, and the side to look from."""

    shapes: tuple[Shape, ...]
    surfaces: tuple[Surface, ...]
    ground: float | None
    """Its height, if there is one."""
    flat: bool
    """Whether all moves in the plane of x and z."""
    above: bool
    """Whether all moves in a plane that is looked at from above."""
    travels: bool
    """Whether the robot as a whole goes along x: only then its speed says something."""
    size: float
    """About as long as the robot, in metres."""
    root: int
    """The first body that moves."""

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
    """Visible ones, or else all; those of the bodies' inertia where there are none."""
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
    return mujoco.mjtGeom(model.geom_type[geom])


def _color(model: mujoco.MjModel, geom: int) -> tuple[float, float, float, float]:
    material = model.geom_matid[geom]
    rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
    return tuple(map(float, rgba))  # type: ignore[return-value]


def _mesh(model: mujoco.MjModel, mesh: int) -> Surface:
    first, face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
    vertices = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
    return Surface(vertices.copy(), model.mesh_face[face : face + model.mesh_facenum[mesh]].copy())


def _heights(model: mujoco.MjModel, field: int) -> Surface:
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
    """The matrix [3, 3] of a quaternion [4]."""
    made = np.empty(9)
    mujoco.mju_quat2Mat(made, quaternion)
    return made.reshape(3, 3)


def _inertia(model: mujoco.MjModel, body: int) -> tuple[float, float, float]:
    """Half the sides of a box with the inertia of ``body``, and a millimetre at least."""
    whole = model.body_inertia[body].sum() / 2 - model.body_inertia[body]
    return tuple(map(float, np.sqrt(3 * whole.clip(0) / model.body_mass[body]).clip(1e-3)))  # type: ignore[return-value]


def _ground(model: mujoco.MjModel, data: mujoco.MjData) -> float | None:
    """The height of the first level plane."""
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE):
        if data.geom_xmat[geom, 8] > 0.9:
            return float(data.geom_xpos[geom, 2])
    return None


def _size(model: mujoco.MjModel, data: mujoco.MjData, shapes: tuple[Shape, ...]) -> float:
    """The mean of the two longest sides of all, but for fields of heights where there is anything else."""
    fields = mujoco.mjtGeom.mjGEOM_HFIELD
    some = tuple(s for s in shapes if s.geom < 0 or model.geom_type[s.geom] != fields) or shapes
    if not some:
        return 1.0
    at, _, ids = _places(data, some)
    where = at[ids]
    reach = np.array([[np.linalg.norm(s.size) if s.geom < 0 else model.geom_rbound[s.geom]] for s in some])
    spans = (where + reach).max(axis=0) - (where - reach).min(axis=0)
    return float(np.sort(spans)[-2:].mean())


@dataclass(frozen=True)
class Poses:
    """Where the shapes of a scene are in F frames."""

    positions: np.ndarray
    """[F, shapes, 3]"""
    rotations: np.ndarray
    """[F, shapes, 3, 3]"""
    center: np.ndarray
    """[F, 3], the centre of mass of the robot."""


def poses(model: mujoco.MjModel, scene: Scene, qpos: np.ndarray) -> Poses:
    """Of positions [F, nq], by MuJoCo's kinematics."""
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
    """Views of ``data`` with positions [n, 3] and rotations [n, 9], and the rows that are the shapes'."""
    if any(shape.geom < 0 for shape in shapes):
        return data.xipos, data.ximat, [shape.body for shape in shapes]
    return data.geom_xpos, data.geom_xmat, [shape.geom for shape in shapes]


def shown(length: int, every: int) -> np.ndarray:
    """Which of ``length`` steps are shown: one in ``every``, and the last."""
    return np.unique(np.append(np.arange(0, length, every), length - 1))
