"""A robot as a tree of links, read from its MuJoCo model.

A link is a body with joints, together with all bodies that are welded to it. Siblings of the same structure,
such as legs, become the lanes of one link, whose constants may differ between lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mujoco
import numpy as np

from td3_brax.envs.physics.rigid.lanes import Matrix, Value, Vector, constant

JOINT, GEOM = mujoco.mjtJoint, mujoco.mjtGeom


@dataclass
class Joint:
    """One joint per lane."""

    kind: str
    """``free``, ``slide`` or ``hinge``."""
    ids: list[int]
    """[lanes] Joint ids in the model."""
    axis: Vector
    """Axis in the link's frame."""
    anchor: Vector
    """Anchor point in the link's frame."""
    coordinates: list[int]
    """Indices of its 7 or 1 coordinates in the tree."""
    dofs: list[int]
    """Indices of its 6 or 1 degrees of freedom in the tree."""


@dataclass
class Link:
    """One link per lane."""

    parent: int
    """Index of the parent link, -1 for the world."""
    bodies: list[int]
    """[lanes] Body ids in the model."""
    position: Vector
    """Position in the parent's frame."""
    rotation: Matrix
    """Rotation to the parent's frame."""
    mass: Value
    com: Vector
    """Centre of mass in the link's frame."""
    moments: Vector
    """Principal moments of inertia about the centre of mass."""
    principal: Matrix
    """Principal axes, in columns."""
    joints: list[Joint] = field(default_factory=list)

    @property
    def lanes(self) -> int:
        """The number of lanes."""
        return len(self.bodies)

    @property
    def dofs(self) -> list[int]:
        """Indices of the degrees of freedom of all joints."""
        return [dof for joint in self.joints for dof in joint.dofs]


class Tree:
    """The links of ``model``, parents first.

    Siblings of the same structure are lanes of one link, unless two moving geoms can collide.

    Args:
        collision_pairs: pairs of geoms that can collide.
        share_lanes: whether siblings may be lanes of one link.
        merge_rows: whether contacts of different links, and the solver's rows, may share arrays too.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        collision_pairs: Sequence[tuple[int, int]],
        share_lanes: bool = True,
        merge_rows: bool = True,
    ) -> None:
        self.model, self.merge_rows = model, merge_rows
        self.weld = model.body_weldid
        self.links: list[Link] = []
        self.qpos: list[list[int]] = []
        """For each coordinate its indices [lanes] in qpos."""
        self.qvel: list[list[int]] = []
        """For each degree of freedom its indices [lanes] in qvel."""
        self.link_and_lane: dict[int, tuple[int, int]] = {}
        """Link and lane of each body that is not welded to the world."""
        self._collision_pairs = collision_pairs
        across = any(self.weld[model.geom_bodyid[a]] != 0 for a, _ in collision_pairs)
        self.grouped = share_lanes and not across
        self._add_children([0], -1)
        for body in range(model.nbody):
            if self.weld[body]:
                self.link_and_lane[body] = self.link_and_lane[self.weld[body]]

    def pose_on_link(
        self, body: int, position: np.ndarray, quaternion: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Convert a pose in the frame of ``body`` to rotation [3, 3] and position [3] in its link's frame."""
        rotation, at = _rotation_matrix(quaternion), np.array(position, np.float64)
        while body != self.weld[body]:
            turn = _rotation_matrix(self.model.body_quat[body])
            rotation, at = turn @ rotation, turn @ at + self.model.body_pos[body]
            body = int(self.model.body_parentid[body])
        return rotation, at

    def moving_dofs(self, link: int) -> list[int]:
        """Return the degrees of freedom that move ``link``, from the root down."""
        above = self.moving_dofs(self.links[link].parent) if self.links[link].parent >= 0 else []
        return above + self.links[link].dofs

    def lanes_of_dof(self, dof: int) -> int:
        """Return the number of lanes of a degree of freedom."""
        return len(self.qvel[dof])

    def lanes_between(self, dof: int, other: int) -> int:
        """Return how many lanes of ``dof`` are summed into one lane of ``other``, which is above it."""
        return self.lanes_of_dof(dof) if self.lanes_of_dof(other) == 1 else 1

    def lanes_below(self, link: int) -> int:
        """Return how many lanes of ``link`` are summed into one lane of its parent."""
        lanes = self.links[link].lanes
        return lanes if self.links[self.links[link].parent].lanes == 1 else 1

    def _children(self, body: int) -> list[int]:
        """Return the bodies with joints whose parent is ``body`` or welded to it."""
        model = self.model
        return [
            b
            for b in range(1, model.nbody)
            if self.weld[b] == b and self.weld[model.body_parentid[b]] == body
        ]

    def _signature(self, body: int) -> tuple[object, ...]:
        """Return the structure of a body's subtree. Siblings with equal structure can share lanes."""
        model = self.model
        first = model.body_jntadr[body]
        joints = range(first, first + model.body_jntnum[body])
        motors = set(model.actuator_trnid[:, 0])
        features = [(int(model.jnt_type[j]), bool(model.jnt_limited[j]), j in motors) for j in joints]
        geoms = [
            (int(model.geom_type[b]), a, int(model.geom_condim[b]))
            for a, b in self._collision_pairs
            if self.weld[model.geom_bodyid[b]] == body
        ]
        return (
            tuple(features),
            tuple(geoms),
            tuple(self._signature(child) for child in self._children(body)),
        )

    def _add_children(self, bodies: list[int], parent: int) -> None:
        """Add the subtrees of ``bodies`` [lanes], which are the link ``parent``."""
        children = [self._children(body) for body in bodies]
        if len(bodies) > 1:
            groups = [list(slot) for slot in zip(*children, strict=True)]
        elif self.grouped:
            kinds: dict[tuple[object, ...], list[int]] = {}
            for child in children[0]:
                kinds.setdefault(self._signature(child), []).append(child)
            groups = list(kinds.values())
        else:
            groups = [[child] for child in children[0]]
        for group in groups:
            self._add_children(group, self._add_link(group, parent))

    def _add_link(self, bodies: list[int], parent: int) -> int:
        """Add a link with a lane for each of ``bodies``. Return its index."""
        model, index = self.model, len(self.links)
        poses = [
            self.pose_on_link(int(model.body_parentid[b]), model.body_pos[b], model.body_quat[b])
            for b in bodies
        ]
        inertias = [self._body_inertia(b) for b in bodies]
        link = Link(
            parent=parent,
            bodies=bodies,
            position=_vector_constants([p for _, p in poses]),
            rotation=_matrix_constants([r for r, _ in poses]),
            mass=constant([i[0] for i in inertias]),
            com=_vector_constants([i[1] for i in inertias]),
            moments=_vector_constants([i[2] for i in inertias]),
            principal=_matrix_constants([i[3] for i in inertias]),
        )
        self.links.append(link)
        for lane, body in enumerate(bodies):
            self.link_and_lane[body] = (index, lane)
        for slot in range(model.body_jntnum[bodies[0]]):
            self._add_joint(link, [int(model.body_jntadr[b]) + slot for b in bodies])
        return index

    def _add_joint(self, link: Link, ids: list[int]) -> None:
        """Add to ``link`` the joint with ``ids`` [lanes]."""
        model = self.model
        free = model.jnt_type[ids[0]] == JOINT.mjJNT_FREE
        slide = model.jnt_type[ids[0]] == JOINT.mjJNT_SLIDE
        coordinates, dofs = (7, 6) if free else (1, 1)
        link.joints.append(
            Joint(
                kind="free" if free else "slide" if slide else "hinge",
                ids=ids,
                axis=_vector_constants([model.jnt_axis[j] for j in ids]),
                anchor=_vector_constants([model.jnt_pos[j] for j in ids]),
                coordinates=list(range(len(self.qpos), len(self.qpos) + coordinates)),
                dofs=list(range(len(self.qvel), len(self.qvel) + dofs)),
            )
        )
        self.qpos += [[int(model.jnt_qposadr[j]) + k for j in ids] for k in range(coordinates)]
        self.qvel += [[int(model.jnt_dofadr[j]) + k for j in ids] for k in range(dofs)]

    def _body_inertia(self, link: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Return mass, centre of mass, principal moments and axes of a body with all that is welded to it."""
        model = self.model
        bodies = [b for b in range(model.nbody) if self.weld[b] == link]
        poses = [self.pose_on_link(b, model.body_ipos[b], model.body_iquat[b]) for b in bodies]
        masses = model.body_mass[bodies]
        mass = float(masses.sum())
        com = sum(m * p for m, (_, p) in zip(masses, poses, strict=True)) / max(mass, mujoco.mjMINVAL)
        whole = np.zeros((3, 3))
        for b, m, (turn, at) in zip(bodies, masses, poses, strict=True):
            off = at - com
            whole += turn @ np.diag(model.body_inertia[b]) @ turn.T
            whole += m * (off @ off * np.eye(3) - np.outer(off, off))
        moments, axes = np.linalg.eigh(whole)
        if np.allclose(moments[0], moments[1], rtol=1e-6):  # equal moments last
            moments, axes = moments[::-1], axes[:, ::-1]
        if np.allclose(moments[1], moments[2], rtol=1e-6):
            moments = np.array([moments[0], *[moments[1:].mean()] * 2])
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(3)])
        return mass, np.asarray(com), moments, axes


def _rotation_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] of a quaternion [4]."""
    out = np.zeros(9)
    mujoco.mju_quat2Mat(out, np.asarray(quaternion, np.float64))
    return out.reshape(3, 3)


def _vector_constants(lanes: Sequence[np.ndarray]) -> Vector:
    """Return the constants [3] of vectors [lanes][3]."""
    return [constant(values) for values in np.array(lanes).T]


def _matrix_constants(lanes: Sequence[np.ndarray]) -> Matrix:
    """Return the constants [3][3] of matrices [lanes][3, 3]."""
    return [[constant(np.array(lanes)[:, i, j]) for j in range(3)] for i in range(3)]
