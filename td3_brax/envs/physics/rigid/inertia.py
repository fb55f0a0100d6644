"""Spatial inertias of a robot's links about the common reference point."""

from __future__ import annotations

from dataclasses import dataclass

from td3_brax.envs.physics.rigid.lanes import (
    Matrix,
    Value,
    Vector,
    column,
    cross,
    dot,
    lane_sum,
    minus,
    plus,
    rotate,
    times,
    total,
)
from td3_brax.envs.physics.rigid.tree import Link, Tree


@dataclass
class Inertia:
    """The spatial inertia of a rigid body about the reference point."""

    mass: Value
    first_moment: Vector
    """Mass times centre of mass."""
    rotational: Matrix
    """Rotational inertia."""

    def __add__(self, other: Inertia) -> Inertia:
        rotational = [plus(a, b) for a, b in zip(self.rotational, other.rotational, strict=True)]
        return Inertia(self.mass + other.mass, plus(self.first_moment, other.first_moment), rotational)

    def momentum(self, motion: Vector) -> Vector:
        """Return the momentum [6] at the spatial velocity ``motion`` [6]."""
        turn, move = motion[:3], motion[3:]
        torque = plus(rotate(self.rotational, turn), cross(self.first_moment, move))
        return torque + minus(times(self.mass, move), cross(self.first_moment, turn))

    def summed_over_lanes(self, lanes: int) -> Inertia:
        """Return the sum of the inertias of all lanes."""
        rotational = [[lane_sum(x, lanes) for x in row] for row in self.rotational]
        return Inertia(
            lane_sum(self.mass, lanes), [lane_sum(x, lanes) for x in self.first_moment], rotational
        )


def link_inertias(tree: Tree, rotation: list[Matrix], position: list[Vector]) -> list[Inertia]:
    """Return the inertia of each link, from the links' poses."""
    found = []
    for link, turn, at in zip(tree.links, rotation, position, strict=True):
        centre = plus(at, rotate(turn, link.com))
        # Two of the three principal axes determine the inertia, or one if two moments are equal.
        base, extra = _split_moments(link)
        axes = [(m, rotate(turn, column(link.principal, k))) for k, m in extra]
        square = dot(centre, centre) * link.mass
        rotational = [
            [
                (base + square if i == j else 0.0)
                + total([m * axis[i] * axis[j] for m, axis in axes])
                - link.mass * centre[i] * centre[j]
                for j in range(3)
            ]
            for i in range(3)
        ]
        found.append(Inertia(link.mass, times(link.mass, centre), rotational))
    return found


def _split_moments(link: Link) -> tuple[Value, list[tuple[int, Value]]]:
    """Return the last principal moment, and how much the other two exceed it."""
    last = link.moments[2]
    return last, [(k, link.moments[k] - last) for k in range(2)]


def composite_inertias(tree: Tree, inertias: list[Inertia]) -> list[Inertia]:
    """Return for each link the inertia of its whole subtree."""
    composites = list(inertias)
    for i in reversed(range(len(tree.links))):
        if (parent := tree.links[i].parent) >= 0:
            composites[parent] = composites[parent] + composites[i].summed_over_lanes(tree.lanes_below(i))
    return composites
