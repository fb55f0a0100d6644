"""Positions, frames and distances of contacts between planes, spheres and capsules."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import mujoco

from td3_brax.envs.physics.rigid.lanes import (
    Matrix,
    Value,
    Vector,
    apply,
    column,
    cross,
    dot,
    minus,
    plus,
    raw,
    rotate,
    times,
    where,
)
from td3_brax.envs.physics.rigid.motion import Pose
from td3_brax.envs.physics.rigid.pairs import Geom, Pair
from td3_brax.envs.physics.rigid.tree import GEOM, Tree


@dataclass
class Contact:
    """One contact of a pair of geoms."""

    pair: Pair
    position: Vector
    """Contact point relative to the origin of :class:`Pose`."""
    frame: Matrix
    """Rows: the normal, from the first geom to the second, and two tangents."""
    distance: Value
    """Distance between the surfaces minus the margin."""


def find_contacts(tree: Tree, pose: Pose, pairs: list[Pair], align_steep: bool) -> list[Contact]:
    """Return all contacts of ``pairs``.

    Args:
        align_steep: whether a capsule's first tangent follows its axis at any angle, as in MuJoCo, or only if
            the axis is within 60 degrees of the plane, as in MJX. (In MJX, the second tangent is not
            orthogonal to the normal of a tilted plane; ours is.)
    """
    found = []
    for pair in pairs:
        plane = tree.model.geom_type[pair.geom1.ids[0]] == GEOM.mjGEOM_PLANE
        found += _plane_contacts(pose, pair, align_steep) if plane else [_capsule_contact(pose, pair)]
    return found


def _segment(pose: Pose, geom: Geom) -> tuple[Vector, Vector]:
    """Return centre and axis of a geom."""
    if geom.link < 0:
        return minus(geom.position, pose.origin), column(geom.rotation, 2)
    turn = [geom.stack_links([rotation[i] for rotation in pose.rotation]) for i in range(3)]
    centre = plus(geom.stack_links(pose.position), rotate(turn, geom.position))
    return centre, rotate(turn, column(geom.rotation, 2))


def _plane_contacts(pose: Pose, pair: Pair, align_steep: bool) -> list[Contact]:
    """Return the contacts of a plane with a sphere, or with both ends of a capsule."""
    at, normal = _segment(pose, pair.geom1)
    centre, axis = _segment(pose, pair.geom2)
    height = dot(normal, minus(centre, at))
    if pair.geom2.half == 0.0:
        return [_sphere_contact(pair, centre, normal, _frame(normal), height - pair.geom2.radius)]
    frame = _capsule_frame(normal, axis, align_steep)
    rise = pair.geom2.half * dot(normal, axis)
    ends = [plus(centre, times(pair.geom2.half, axis)), minus(centre, times(pair.geom2.half, axis))]
    heights = [height + rise - pair.geom2.radius, height - rise - pair.geom2.radius]
    return [_sphere_contact(pair, end, normal, frame, h) for end, h in zip(ends, heights, strict=True)]


def _sphere_contact(pair: Pair, centre: Vector, normal: Vector, frame: Matrix, distance: Value) -> Contact:
    """Return the contact of a sphere at ``centre`` with a surface at ``distance`` below it."""
    depth = pair.geom2.radius + 0.5 * distance
    return Contact(pair, minus(centre, times(depth, normal)), frame, distance - pair.softness.margin)


def _frame(normal: Vector) -> Matrix:
    """Return a contact frame: ``normal`` and two tangents."""
    y, z = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    if isinstance(normal[1], float):
        side = y if -0.5 < normal[1] < 0.5 else z
        tangent = minus(side, times(dot(normal, side), normal))
        length = dot(tangent, tangent)
        tangent = times(length**-0.5 if isinstance(length, float) else 1.0 / apply(jnp.sqrt, length), tangent)
    else:
        level = abs(raw(normal[1])) < 0.5
        either: Vector = [0.0, where(level, 1.0, 0.0), where(level, 0.0, 1.0)]
        tangent = minus(either, times(dot(normal, either), normal))
        tangent = times(1.0 / apply(jnp.sqrt, dot(tangent, tangent)), tangent)
    return [normal, tangent, cross(normal, tangent)]


def _capsule_frame(normal: Vector, axis: Vector, align_steep: bool) -> Matrix:
    """Return a contact frame whose first tangent follows a capsule's ``axis`` where possible."""
    _, fixed, _ = _frame(normal)
    level = minus(axis, times(dot(normal, axis), normal))
    length = apply(jnp.sqrt, dot(level, level))
    enough = raw(length) > (1e-7 if align_steep else 0.5)
    inverse = 1.0 / apply(jnp.maximum, length, 1e-7)
    tangent = [where(enough, inverse * a, b) for a, b in zip(level, fixed, strict=True)]
    return [normal, tangent, cross(normal, tangent)]


def _perpendicular(one: Vector, two: Vector) -> Vector:
    """Return a unit vector orthogonal to both vectors, or the x axis if they are parallel."""
    normal = cross(one, two)
    length = apply(jnp.sqrt, dot(normal, normal))
    parallel = raw(length) < mujoco.mjMINVAL
    inverse = 1.0 / apply(jnp.maximum, length, mujoco.mjMINVAL)
    return [where(parallel, x, inverse * a) for x, a in zip((1.0, 0.0, 0.0), normal, strict=True)]


def _capsule_contact(pose: Pose, pair: Pair) -> Contact:
    """Return the contact of two capsules or spheres at their closest points."""
    (one, along), (two, across) = _segment(pose, pair.geom1), _segment(pose, pair.geom2)
    offset = minus(two, one)
    a, b = dot(along, offset), dot(across, offset)
    cosine = dot(along, across)

    def within(x: Value, half: Value) -> Value:
        return apply(jnp.clip, x, -half, half)

    # First the point where both lines are closest, then the nearest point of each segment to the other's.
    s = within((a - cosine * b) / apply(jnp.maximum, 1.0 - cosine * cosine, 1e-9), pair.geom1.half)
    t = within(cosine * s - b, pair.geom2.half)
    s = within(cosine * t + a, pair.geom1.half)
    first, second = plus(one, times(s, along)), plus(two, times(t, across))
    between = minus(second, first)
    length = apply(jnp.sqrt, dot(between, between))
    # If the segments cross, as in planar models, the normal is undefined. MuJoCo's is orthogonal to both.
    crossing = raw(length) < 8 * jnp.finfo(raw(length).dtype).eps
    normal = [
        where(crossing, a, b)
        for a, b in zip(
            _perpendicular(along, across), times(1.0 / apply(jnp.maximum, length, 1e-9), between), strict=True
        )
    ]
    distance = length - pair.geom1.radius - pair.geom2.radius
    position = plus(first, times(pair.geom1.radius + 0.5 * distance, normal))
    return Contact(pair, position, _frame(normal), distance - pair.softness.margin)
