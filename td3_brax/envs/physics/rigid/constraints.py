"""A robot's constraints at one moment, as rows of a Jacobian that is never written down."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from td3_brax.envs.physics.rigid import motion
from td3_brax.envs.physics.rigid.contact import Touch, touches
from td3_brax.envs.physics.rigid.lanes import (
    Matrix,
    Value,
    Vector,
    apply,
    constant,
    cross,
    dot,
    is_zero,
    lane_sum,
    minus,
    plus,
    raw,
    times,
    total,
    where,
)
from td3_brax.envs.physics.rigid.motion import Pose
from td3_brax.envs.physics.rigid.pairs import Pair
from td3_brax.envs.physics.rigid.soft import Soft, soft, weigh
from td3_brax.envs.physics.rigid.tree import Tree


class Limit:
    """The limits of one joint of each lane."""

    def __init__(self, tree: Tree, link: int, slot: int) -> None:
        model, joint = tree.model, tree.links[link].joints[slot]
        ids = joint.ids
        self.coordinate, self.dof = joint.coordinates[0], joint.dofs[0]
        self.low, self.high = constant(model.jnt_range[ids, 0]), constant(model.jnt_range[ids, 1])
        self.soft: Soft = soft(
            model.dof_invweight0[model.jnt_dofadr[ids]],
            model.jnt_solref[ids],
            model.jnt_solimp[ids],
            model.jnt_margin[ids],
            model.opt.timestep,
        )


def limits(tree: Tree) -> list[Limit]:
    """Of all joints that have some."""
    return [
        Limit(tree, i, slot)
        for i, link in enumerate(tree.links)
        for slot, joint in enumerate(link.joints)
        if tree.model.jnt_limited[joint.ids[0]]
    ]


class Constraints:
    """Limits and contacts at ``pose``. A row is one of each lane: a limit, or an edge of a friction pyramid.

    Args:
        steep: see :func:`touches`.
    """

    def __init__(
        self, tree: Tree, pose: Pose, limits: list[Limit], pairs: list[Pair], q: list[Value], steep: bool
    ) -> None:
        self.tree, self.pose = tree, pose
        self.limits: list[tuple[int, Value]] = []
        self.touches: list[Touch] = touches(tree, pose, pairs, steep)
        self.weights: list[Value] = []
        """Inverse regularisation of each row, 0 where not active."""
        self.lanes: list[int] = []
        """Of each row."""
        self._pulls: list[Value] = []
        self._damping: list[Value] = []
        for limit in limits:
            below, above = q[limit.coordinate] - limit.low, limit.high - q[limit.coordinate]
            distance = apply(jnp.minimum, below, above) - limit.soft.margin
            sign = where(raw(below) < raw(above), 1.0, -1.0)
            self.limits.append((limit.dof, sign))
            self._add(limit.soft, distance, tree.lanes_of_dof(limit.dof), 1)
        for touch in self.touches:
            self._add(touch.pair.soft, touch.distance, touch.pair.lanes, _edges(touch))

    def _add(self, of: Soft, distance: Value, lanes: int, rows: int) -> None:
        weight, pull = weigh(of, distance)
        self.weights += [weight] * rows
        self.lanes += [lanes] * rows
        self._pulls += [pull] * rows
        self._damping += [of.damping] * rows

    def references(self, v: list[Value]) -> list[Value]:
        """The acceleration of each row that the constraints want at velocities ``v``."""
        return [
            -(b * speed) - pull
            for b, speed, pull in zip(self._damping, self.along(v), self._pulls, strict=True)
        ]

    def along(self, x: list[Value]) -> list[Value]:
        """J x for each row."""
        rows = [sign * x[dof] for dof, sign in self.limits]
        moving = motion.velocities(self.tree, self.pose, x) if self.touches else []
        for touch in self.touches:
            speed = touch.pair.two.of(moving)
            if touch.pair.one.link >= 0:
                speed = minus(speed, moving[touch.pair.one.link])
            at = plus(speed[3:], cross(speed[:3], touch.position))
            normal, first, second = (dot(row, at) for row in touch.frame)
            if is_zero(touch.pair.friction):
                rows.append(normal)
                continue
            first, second = touch.pair.friction * first, touch.pair.friction * second
            rows += [normal + first, normal - first, normal + second, normal - second]
        return rows

    def push(self, forces: list[Value]) -> list[Value]:
        """J' f for ``forces`` of each row."""
        pushed: list[Value] = [0.0] * len(self.tree.qvel)
        for (dof, sign), force in zip(self.limits, forces, strict=False):
            pushed[dof] = pushed[dof] + sign * force
        if not self.touches:
            return pushed
        on: list[Vector] = [[0.0] * 6 for _ in self.tree.links]
        for touch, wrench in zip(self.touches, self.wrenches(forces), strict=True):
            for link, part in touch.pair.two.parts(wrench):
                on[link] = plus(on[link], part)
            if touch.pair.one.link >= 0:
                on[touch.pair.one.link] = minus(on[touch.pair.one.link], wrench)
        return plus(pushed, motion.project(self.tree, self.pose, on))

    def wrenches(self, forces: list[Value]) -> list[Vector]:
        """[6] what each contact does to its second shape, for ``forces`` of each row."""
        found, row = [], len(self.limits)
        for touch in self.touches:
            edges = forces[row : row + _edges(touch)]
            row += len(edges)
            parts = [total(edges)]
            if len(edges) == 4:
                mu = touch.pair.friction
                parts += [mu * (edges[0] - edges[1]), mu * (edges[2] - edges[3])]
            force: Vector = [0.0] * 3
            for part, direction in zip(parts, touch.frame, strict=False):
                force = plus(force, times(part, direction))
            found.append(cross(touch.position, force) + force)
        return found

    def stiffen(self, mass: Matrix, weights: list[Value]) -> Matrix:
        """M + J' D J for ``mass`` and ``weights`` D of each row."""
        tree = self.tree
        added: list[Any] = [None] * len(tree.links)
        matrix = [list(row) for row in mass]
        row = len(self.limits)
        for touch in self.touches:
            block = _stiffness(touch, weights[row : row + _edges(touch)])
            row += _edges(touch)
            if touch.pair.one.link >= 0:
                self._stiffen_between(matrix, touch, mirrored(block))
                continue
            for link, part in touch.pair.two.parts([x for line in block for x in line]):
                own = mirrored([part[i * (i + 1) // 2 :][: i + 1] for i in range(6)])
                added[link] = own if added[link] is None else _both(added[link], own)
        for i in reversed(range(len(tree.links))):
            parent = tree.links[i].parent
            if parent >= 0 and added[i] is not None:
                lanes = tree.lanes_below(i)
                lower = [[lane_sum(x, lanes) for x in line[: k + 1]] for k, line in enumerate(added[i])]
                up = mirrored(lower)
                added[parent] = up if added[parent] is None else _both(added[parent], up)

        def force(link: int, screw: Vector) -> Vector:
            return [0.0] * 6 if added[link] is None else [dot(line, screw) for line in added[link]]

        extra = motion.couple(tree, self.pose, force)
        matrix = [plus(a, b) for a, b in zip(matrix, extra, strict=True)]
        for (dof, _), weight in zip(self.limits, weights, strict=False):
            matrix[dof][dof] = matrix[dof][dof] + weight
        return matrix

    def _stiffen_between(self, matrix: Matrix, touch: Touch, block: Matrix) -> None:
        """Add the stiffness of a contact between two links that move."""
        one, two = self.tree.path(touch.pair.one.link), self.tree.path(touch.pair.two.link)
        moves = {dof: 1.0 for dof in two if dof not in one} | {dof: -1.0 for dof in one if dof not in two}
        for dof, sign in moves.items():
            force = [dot(line, self.pose.screw[dof]) for line in block]
            for other in (o for o in moves if o <= dof):
                along = dot(self.pose.screw[other], force)
                matrix[dof][other] = matrix[dof][other] + sign * moves[other] * along


def _edges(touch: Touch) -> int:
    return 1 if is_zero(touch.pair.friction) else 4


def mirrored(lower: Matrix) -> Matrix:
    """A symmetric matrix of its lower half."""
    n = len(lower)
    return [[lower[max(i, j)][min(i, j)] for j in range(n)] for i in range(n)]


def _both(a: Matrix, b: Matrix) -> Matrix:
    """a + b of symmetric ones."""
    return mirrored([plus(a[i][: i + 1], b[i][: i + 1]) for i in range(len(a))])


def _stiffness(touch: Touch, weights: list[Value]) -> Matrix:
    """The lower half of [6][6] of a contact whose edges have ``weights``, about the point."""
    normal, first, second = touch.frame
    if len(weights) == 1:
        here = mirrored([[weights[0] * normal[i] * normal[j] for j in range(i + 1)] for i in range(3)])
    else:
        mu = touch.pair.friction
        tilt = [mu * (weights[0] - weights[1]), mu * (weights[2] - weights[3])]
        sides = [mu * mu * (weights[0] + weights[1]), mu * mu * (weights[2] + weights[3])]
        # whole n n' + tilt (n t' + t n') + side t t': what multiplies n', and each t'.
        along = plus(times(total(weights), normal), plus(times(tilt[0], first), times(tilt[1], second)))
        aside = [plus(times(tilt[k], normal), times(sides[k], t)) for k, t in enumerate((first, second))]
        parts = [(along, normal), (aside[0], first), (aside[1], second)]
        here = mirrored([[total([a[i] * b[j] for a, b in parts]) for j in range(i + 1)] for i in range(3)])
    # The velocity at the contact is v - p x w for a spatial velocity (w, v).
    columns = [cross(touch.position, row) for row in here]
    corner = [[columns[j][i] for j in range(3)] for i in range(3)]  # [p] A
    turning = [cross(touch.position, line) for line in corner]  # - [p] A [p]
    upper = [turning[i][: i + 1] for i in range(3)]
    return upper + [columns[i] + here[i][: i + 1] for i in range(3)]
