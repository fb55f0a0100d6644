"""Kinematics and inverse dynamics of a robot's links with spatial vectors.

A spatial vector has an angular, then a linear part, along the axes of the world. All are about one reference
point, the current origin of the first link (Featherstone, "Rigid Body Dynamics Algorithms", chapters 2, 5 and
6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from td3_brax.envs.physics.rigid.inertia import Inertia
from td3_brax.envs.physics.rigid.lanes import (
    Matrix,
    Value,
    Vector,
    apply,
    column,
    constant,
    cross,
    dot,
    lane_sum,
    matmul,
    minus,
    plus,
    rotate,
    times,
    total,
)
from td3_brax.envs.physics.rigid.tree import Joint, Tree


@dataclass
class Pose:
    """Poses of all links, and motions of all degrees of freedom."""

    origin: Vector
    """Position of the first link in the world, the reference point."""
    rotation: list[Matrix]
    """Rotation of each link to the world."""
    position: list[Vector]
    """Position of each link relative to ``origin``."""
    screw: list[Vector]
    """[6] Spatial velocity that a unit velocity of each degree of freedom causes."""


def forward_kinematics(tree: Tree, q: list[Value]) -> Pose:
    """Return the pose at coordinates ``q``."""
    rotation: list[Matrix] = []
    position: list[Vector] = []
    lines: list[tuple[Joint, Any, Vector]] = []
    for link in tree.links:
        if link.parent < 0:
            turn, at = link.rotation, link.position
        else:
            above = rotation[link.parent]
            turn = matmul(above, link.rotation)
            at = plus(position[link.parent], rotate(above, link.position))
        for joint in link.joints:
            coordinates = [q[i] for i in joint.coordinates]
            if joint.kind == "free":
                at, turn = coordinates[:3], rotation_from_quaternion(coordinates[3:])
                lines.append((joint, turn, at))
                continue
            change = coordinates[0] - _reference_position(tree, joint)
            axis = rotate(turn, joint.axis)
            if joint.kind == "slide":
                at = plus(at, times(change, axis))
                lines.append((joint, axis, at))
            else:
                anchor = plus(at, rotate(turn, joint.anchor))
                turn = matmul(turn, _axis_rotation(joint.axis, change))
                at = minus(anchor, rotate(turn, joint.anchor))
                lines.append((joint, axis, anchor))
        rotation.append(turn)
        position.append(at)
    origin = position[0]
    position = [minus(at, origin) for at in position]
    return Pose(origin, rotation, position, [s for line in lines for s in _screws(*line, origin)])


def _screws(joint: Joint, along: Any, at: Vector, origin: Vector) -> list[Vector]:
    zero: Vector = [0.0] * 3
    if joint.kind == "free":
        moves = [zero + [1.0 if i == j else 0.0 for j in range(3)] for i in range(3)]
        return moves + [column(along, i) + zero for i in range(3)]
    if joint.kind == "slide":
        return [zero + along]
    return [along + cross(minus(at, origin), along)]


def _reference_position(tree: Tree, joint: Joint) -> Value:
    return constant(tree.model.qpos0[tree.model.jnt_qposadr[joint.ids]])


def _axis_rotation(axis: Vector, angle: Value) -> Matrix:
    """Return the rotation by ``angle`` about a unit ``axis``."""
    c, s = apply(jnp.cos, angle), apply(jnp.sin, angle)
    x, y, z = times(s, axis)
    skew: Matrix = [[c, -z, y], [z, c, -x], [-y, x, c]]
    rest = 1.0 - c
    return [[skew[i][j] + rest * (axis[i] * axis[j]) for j in range(3)] for i in range(3)]


def rotation_from_quaternion(q: Vector) -> Matrix:
    """Return the rotation of a quaternion [4], which need not be normalised."""
    scale = 2.0 / dot(q, q)
    w, x, y, z = q
    sx, sy, sz = scale * x, scale * y, scale * z
    xx, yy, zz = sx * x, sy * y, sz * z
    xy, xz, yz, wx, wy, wz = sx * y, sx * z, sy * z, sx * w, sy * w, sz * w
    return [
        [1.0 - (yy + zz), xy - wz, xz + wy],
        [xy + wz, 1.0 - (xx + zz), yz - wx],
        [xz - wy, yz + wx, 1.0 - (xx + yy)],
    ]


def link_velocities(tree: Tree, pose: Pose, v: list[Value]) -> list[Vector]:
    """Return the spatial velocity [6] of each link for velocities ``v`` of the degrees of freedom."""
    found: list[Vector] = []
    for link in tree.links:
        speed: Vector = found[link.parent] if link.parent >= 0 else [0.0] * 6
        for dof in link.dofs:
            speed = plus(speed, times(v[dof], pose.screw[dof]))
        found.append(speed)
    return found


def project_forces(tree: Tree, pose: Pose, forces: list[Vector]) -> list[Value]:
    """Project spatial forces [6] on the links onto the degrees of freedom."""
    forces = list(forces)
    found: list[Value] = [0.0] * len(tree.qvel)
    for i in reversed(range(len(tree.links))):
        link = tree.links[i]
        for dof in link.dofs:
            found[dof] = dot(pose.screw[dof], forces[i])
        if link.parent >= 0:
            up = [lane_sum(x, tree.lanes_below(i)) for x in forces[i]]
            forces[link.parent] = plus(forces[link.parent], up)
    return found


def bias_forces(tree: Tree, pose: Pose, inertias: list[Inertia], v: list[Value]) -> list[Value]:
    """Return gravity and Coriolis forces [nv]: those at zero acceleration (recursive Newton-Euler)."""
    gravity: Vector = [0.0, 0.0, 0.0, *(-float(g) for g in tree.model.opt.gravity)]
    speeds: list[Vector] = []
    drifts: list[Vector] = []
    forces: list[Vector] = []
    for link, inertia in zip(tree.links, inertias, strict=True):
        speed: Vector = speeds[link.parent] if link.parent >= 0 else [0.0] * 6
        drift = drifts[link.parent] if link.parent >= 0 else gravity
        for joint in link.joints:
            for dofs in [joint.dofs[:3], joint.dofs[3:]] if joint.kind == "free" else [joint.dofs]:
                moved = _vector_sum([times(v[dof], pose.screw[dof]) for dof in dofs])
                if joint.kind != "free" or dofs != joint.dofs[:3]:  # a free joint slides along fixed axes
                    drift = plus(drift, _cross_motion(speed, moved))
                speed = plus(speed, moved)
        speeds.append(speed)
        drifts.append(drift)
        forces.append(plus(inertia.momentum(drift), _cross_force(speed, inertia.momentum(speed))))
    return project_forces(tree, pose, forces)


def _vector_sum(vectors: list[Vector]) -> Vector:
    return [total(list(parts)) for parts in zip(*vectors, strict=True)]


def _cross_motion(v: Vector, s: Vector) -> Vector:
    """Return the rate of change of a motion ``s`` that moves with velocity ``v``."""
    return cross(v[:3], s[:3]) + plus(cross(v[:3], s[3:]), cross(v[3:], s[:3]))


def _cross_force(v: Vector, f: Vector) -> Vector:
    """Return the rate of change of a force or momentum ``f`` that moves with velocity ``v``."""
    return plus(cross(v[:3], f[:3]), cross(v[3:], f[3:])) + cross(v[:3], f[3:])


def assemble_matrix(tree: Tree, pose: Pose, momentum: Any) -> Matrix:
    """Project ``momentum(link, screw)`` of each degree of freedom onto itself and those above it in the tree.

    Returns:
        The lower half of a matrix, a row per degree of freedom. Pairs on different branches are zero.
    """
    n = len(tree.qvel)
    matrix: Matrix = [[0.0] * n for _ in range(n)]
    for i, link in enumerate(tree.links):
        path = tree.moving_dofs(i)
        for dof in link.dofs:
            force = momentum(i, pose.screw[dof])
            for other in path[: path.index(dof) + 1]:
                matrix[dof][other] = dot(pose.screw[other], force)
    return matrix
