"""A robot's constraints at one moment, as rows of a Jacobian that is never stored as a matrix."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from td3_brax.envs.physics.rigid import motion
from td3_brax.envs.physics.rigid.contact import Contact, find_contacts
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
from td3_brax.envs.physics.rigid.soft import Softness, make_softness, weight_and_pull
from td3_brax.envs.physics.rigid.tree import Tree


class JointLimit:
    """The limits of one joint per lane."""

    def __init__(self, tree: Tree, link: int, slot: int) -> None:
        model, joint = tree.model, tree.links[link].joints[slot]
        ids = joint.ids
        self.coordinate, self.dof = joint.coordinates[0], joint.dofs[0]
        self.low, self.high = constant(model.jnt_range[ids, 0]), constant(model.jnt_range[ids, 1])
        self.softness: Softness = make_softness(
            model.dof_invweight0[model.jnt_dofadr[ids]],
            model.jnt_solref[ids],
            model.jnt_solimp[ids],
            model.jnt_margin[ids],
            model.opt.timestep,
        )


def joint_limits(tree: Tree) -> list[JointLimit]:
    """Return the limits of all limited joints."""
    return [
        JointLimit(tree, i, slot)
        for i, link in enumerate(tree.links)
        for slot, joint in enumerate(link.joints)
        if tree.model.jnt_limited[joint.ids[0]]
    ]


class Constraints:
    """Joint limits and contacts at ``pose``.

    A row is one limit, or one edge of a friction pyramid, in each lane.

    Args:
        align_steep: see :func:`find_contacts`.
    """

    def __init__(
        self,
        tree: Tree,
        pose: Pose,
        limits: list[JointLimit],
        pairs: list[Pair],
        q: list[Value],
        align_steep: bool,
    ) -> None:
        self.tree, self.pose = tree, pose
        self.limits: list[tuple[int, Value]] = []
        self.contacts: list[Contact] = find_contacts(tree, pose, pairs, align_steep)
        self.weights: list[Value] = []
        """Inverse regularisation D of each row, 0 if the row is not active."""
        self.lanes: list[int] = []
        """Number of lanes of each row."""
        self._pulls: list[Value] = []
        self._damping: list[Value] = []
        for limit in limits:
            below, above = q[limit.coordinate] - limit.low, limit.high - q[limit.coordinate]
            distance = apply(jnp.minimum, below, above) - limit.softness.margin
            sign = where(raw(below) < raw(above), 1.0, -1.0)
            self.limits.append((limit.dof, sign))
            self._add(limit.softness, distance, tree.lanes_of_dof(limit.dof), 1)
        for contact in self.contacts:
            self._add(contact.pair.softness, contact.distance, contact.pair.lanes, _row_count(contact))

    def _add(self, softness: Softness, distance: Value, lanes: int, rows: int) -> None:
        weight, pull = weight_and_pull(softness, distance)
        self.weights += [weight] * rows
        self.lanes += [lanes] * rows
        self._pulls += [pull] * rows
        self._damping += [softness.damping] * rows

    def references(self, v: list[Value]) -> list[Value]:
        """Return the reference acceleration of each row at velocities ``v``."""
        return [
            -(b * speed) - pull
            for b, speed, pull in zip(self._damping, self.jacobian_product(v), self._pulls, strict=True)
        ]

    def jacobian_product(self, x: list[Value]) -> list[Value]:
        """Return J x, a value per row."""
        rows = [sign * x[dof] for dof, sign in self.limits]
        moving = motion.link_velocities(self.tree, self.pose, x) if self.contacts else []
        for contact in self.contacts:
            speed = contact.pair.geom2.stack_links(moving)
            if contact.pair.geom1.link >= 0:
                speed = minus(speed, moving[contact.pair.geom1.link])
            at = plus(speed[3:], cross(speed[:3], contact.position))
            normal, first, second = (dot(row, at) for row in contact.frame)
            if is_zero(contact.pair.friction):
                rows.append(normal)
                continue
            first, second = contact.pair.friction * first, contact.pair.friction * second
            rows += [normal + first, normal - first, normal + second, normal - second]
        return rows

    def transposed_product(self, forces: list[Value]) -> list[Value]:
        """Return J' f for the ``forces`` f of the rows."""
        pushed: list[Value] = [0.0] * len(self.tree.qvel)
        for (dof, sign), force in zip(self.limits, forces, strict=False):
            pushed[dof] = pushed[dof] + sign * force
        if not self.contacts:
            return pushed
        on: list[Vector] = [[0.0] * 6 for _ in self.tree.links]
        for contact, wrench in zip(self.contacts, self.wrenches(forces), strict=True):
            for link, part in contact.pair.geom2.split_by_link(wrench):
                on[link] = plus(on[link], part)
            if contact.pair.geom1.link >= 0:
                on[contact.pair.geom1.link] = minus(on[contact.pair.geom1.link], wrench)
        return plus(pushed, motion.project_forces(self.tree, self.pose, on))

    def wrenches(self, forces: list[Value]) -> list[Vector]:
        """Return the wrench [6] of each contact on its second geom, for the ``forces`` of the rows."""
        found, row = [], len(self.limits)
        for contact in self.contacts:
            edges = forces[row : row + _row_count(contact)]
            row += len(edges)
            parts = [total(edges)]
            if len(edges) == 4:
                mu = contact.pair.friction
                parts += [mu * (edges[0] - edges[1]), mu * (edges[2] - edges[3])]
            force: Vector = [0.0] * 3
            for part, direction in zip(parts, contact.frame, strict=False):
                force = plus(force, times(part, direction))
            found.append(cross(contact.position, force) + force)
        return found

    def add_stiffness(self, mass: Matrix, weights: list[Value]) -> Matrix:
        """Return M + J' D J for the ``mass`` matrix M and the ``weights`` D of the rows."""
        tree = self.tree
        added: list[Any] = [None] * len(tree.links)
        matrix = [list(row) for row in mass]
        row = len(self.limits)
        for contact in self.contacts:
            block = _stiffness(contact, weights[row : row + _row_count(contact)])
            row += _row_count(contact)
            if contact.pair.geom1.link >= 0:
                self._add_stiffness_between(matrix, contact, symmetric(block))
                continue
            for link, part in contact.pair.geom2.split_by_link([x for line in block for x in line]):
                stiffness = symmetric([part[i * (i + 1) // 2 :][: i + 1] for i in range(6)])
                added[link] = stiffness if added[link] is None else _add_symmetric(added[link], stiffness)
        for i in reversed(range(len(tree.links))):
            parent = tree.links[i].parent
            if parent >= 0 and added[i] is not None:
                lanes = tree.lanes_below(i)
                lower = [[lane_sum(x, lanes) for x in line[: k + 1]] for k, line in enumerate(added[i])]
                up = symmetric(lower)
                added[parent] = up if added[parent] is None else _add_symmetric(added[parent], up)

        def force(link: int, screw: Vector) -> Vector:
            return [0.0] * 6 if added[link] is None else [dot(line, screw) for line in added[link]]

        extra = motion.assemble_matrix(tree, self.pose, force)
        matrix = [plus(a, b) for a, b in zip(matrix, extra, strict=True)]
        for (dof, _), weight in zip(self.limits, weights, strict=False):
            matrix[dof][dof] = matrix[dof][dof] + weight
        return matrix

    def _add_stiffness_between(self, matrix: Matrix, contact: Contact, block: Matrix) -> None:
        """Add to ``matrix`` the stiffness of a contact between two moving links."""
        links = contact.pair.geom1.link, contact.pair.geom2.link
        one, two = (self.tree.moving_dofs(link) for link in links)
        moves = {dof: 1.0 for dof in two if dof not in one} | {dof: -1.0 for dof in one if dof not in two}
        for dof, sign in moves.items():
            force = [dot(line, self.pose.screw[dof]) for line in block]
            for other in (o for o in moves if o <= dof):
                along = dot(self.pose.screw[other], force)
                matrix[dof][other] = matrix[dof][other] + sign * moves[other] * along


def _row_count(contact: Contact) -> int:
    """Return 4, the edges of the friction pyramid, or 1 without friction."""
    return 1 if is_zero(contact.pair.friction) else 4


def symmetric(lower: Matrix) -> Matrix:
    """Return the symmetric matrix with the ``lower`` half."""
    n = len(lower)
    return [[lower[max(i, j)][min(i, j)] for j in range(n)] for i in range(n)]


def _add_symmetric(a: Matrix, b: Matrix) -> Matrix:
    """Return a + b for symmetric matrices."""
    return symmetric([plus(a[i][: i + 1], b[i][: i + 1]) for i in range(len(a))])


def _stiffness(contact: Contact, weights: list[Value]) -> Matrix:
    """Return the lower half of the stiffness [6][6] of a contact about the reference point.

    ``weights`` are those of its edges.
    """
    normal, first, second = contact.frame
    if len(weights) == 1:
        here = symmetric([[weights[0] * normal[i] * normal[j] for j in range(i + 1)] for i in range(3)])
    else:
        mu = contact.pair.friction
        tilt = [mu * (weights[0] - weights[1]), mu * (weights[2] - weights[3])]
        sides = [mu * mu * (weights[0] + weights[1]), mu * mu * (weights[2] + weights[3])]
        # The sum is total n n' + tilt (n t' + t n') + side t t'. Below are the factors of n' and of each t'.
        along = plus(times(total(weights), normal), plus(times(tilt[0], first), times(tilt[1], second)))
        aside = [plus(times(tilt[k], normal), times(sides[k], t)) for k, t in enumerate((first, second))]
        parts = [(along, normal), (aside[0], first), (aside[1], second)]
        here = symmetric([[total([a[i] * b[j] for a, b in parts]) for j in range(i + 1)] for i in range(3)])
    # The velocity at the contact is v - p x w for a spatial velocity (w, v).
    columns = [cross(contact.position, row) for row in here]
    corner = [[columns[j][i] for j in range(3)] for i in range(3)]  # [p] A
    turning = [cross(contact.position, line) for line in corner]  # - [p] A [p]
    upper = [turning[i][: i + 1] for i in range(3)]
    return upper + [columns[i] + here[i][: i + 1] for i in range(3)]
