"""One evaluation of a robot's dynamics, and its integration over time, in lanes of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.physics.rigid import factor, inertia, motion, pairs, solver
from td3_brax.envs.physics.rigid.constraints import Constraints, limits
from td3_brax.envs.physics.rigid.lanes import (
    Matrix,
    Value,
    Vector,
    apply,
    constant,
    cross,
    dot,
    minus,
    number,
    plus,
    raw,
    rotate,
    spread,
    times,
    where,
)
from td3_brax.envs.physics.rigid.tree import Tree

Values = list[Value]


@dataclass
class Held:
    """The constraints at a position and velocity."""

    pose: motion.Pose
    rows: Constraints
    references: Values
    """The acceleration that each row wants."""

    def forces(self, qacc: Values) -> Values:
        """What each row pushes with at accelerations ``qacc``."""
        residual = minus(self.rows.along(qacc), self.references)
        return [where(raw(r) < 0, -(d * r), 0.0) for r, d in zip(residual, self.rows.weights, strict=True)]


@dataclass
class Evaluation:
    """What the dynamics give at a position and velocity, by degree of freedom."""

    held: Held
    mass: Matrix
    smooth: Values
    """All forces but the constraints'."""
    qacc: Values


class Dynamics:
    """The dynamics of ``model``, which must have no unsupported features (``unsupported.py``).

    Args:
        iterations: of Newton's method in each evaluation; 0: MJX's one iteration.
        line_search: of Newton's method along each direction.
        kernel: as a kernel can have it: lanes are alike links alone, and a power of two.
        early: whether Newton's method stops once no robot is left that needs more of it: loops whose length
            is not known, which no GPU should have.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        iterations: int,
        line_search: int,
        kernel: bool = False,
        early: bool = False,
    ) -> None:
        self.model, self.iterations, self.line_search, self._early = model, iterations, line_search, early
        touching = pairs.touching(model)
        self.tree = Tree(model, touching, merged=not kernel)
        if kernel and any(link.lanes & (link.lanes - 1) for link in self.tree.links):
            self.tree = Tree(model, touching, alike=False, merged=False)
        self.pairs = pairs.pairs(self.tree, touching)
        self.limits = limits(self.tree)
        self.motors: list[tuple[int, Value, list[int]]] = []
        """Degree of freedom, gear and places [lanes] among the controls."""
        of_joint = {int(model.actuator_trnid[a, 0]): a for a in range(model.nu)}
        for joint in (joint for link in self.tree.links for joint in link.joints):
            if joint.ids[0] in of_joint:
                places = [of_joint[j] for j in joint.ids]
                self.motors.append((joint.dofs[0], constant(model.actuator_gear[places, 0]), places))

    def hold(self, q: Values, v: Values) -> Held:
        """The constraints at coordinates ``q`` and velocities ``v``."""
        pose = motion.place(self.tree, q)
        rows = Constraints(self.tree, pose, self.limits, self.pairs, q, steep=self.iterations > 0)
        return Held(pose, rows, rows.references(v))

    def evaluate(self, q: Values, v: Values, warm: Values, ctrl: Values) -> Evaluation:
        """At coordinates ``q`` and velocities ``v``, the solver starting at accelerations ``warm``."""
        tree, held = self.tree, self.hold(q, v)
        own = inertia.inertias(tree, held.pose.rotation, held.pose.position)
        whole = inertia.composites(tree, own)
        mass = motion.couple(tree, held.pose, lambda link, screw: whole[link].of(screw))
        for dof, places in enumerate(tree.qvel):
            mass[dof][dof] = mass[dof][dof] + constant(self.model.dof_armature[places])
        smooth = minus(self._passive(q, v), motion.bias(tree, held.pose, own, v))
        for (dof, gear, _), control in zip(self.motors, ctrl, strict=True):
            smooth[dof] = smooth[dof] + gear * control
        rows, references = held.rows, held.references
        if not rows.weights:
            qacc = factor.Factor(tree, mass).solve(smooth)
        elif self.iterations:
            how = self.iterations, self.line_search, self._early
            qacc = solver.newtons(tree, mass, smooth, rows, references, warm, *how)
        else:
            qacc = solver.once(tree, mass, smooth, rows, references, warm)
        return Evaluation(held, mass, smooth, [spread(x, like) for x, like in zip(qacc, v, strict=True)])

    def _passive(self, q: Values, v: Values) -> Values:
        """Of the joints' springs and dampers."""
        model = self.model
        forces = [-constant(model.dof_damping[i]) * speed for i, speed in zip(self.tree.qvel, v, strict=True)]
        for joint in (joint for link in self.tree.links for joint in link.joints):
            if joint.kind != "free":
                rest = constant(model.qpos_spring[model.jnt_qposadr[joint.ids]])
                pull = constant(model.jnt_stiffness[joint.ids]) * (q[joint.coordinates[0]] - rest)
                forces[joint.dofs[0]] = forces[joint.dofs[0]] - pull
        return forces

    def euler(self, q: Values, v: Values, warm: Values, ctrl: Values) -> tuple[Values, Values, Values]:
        """Positions, velocities and accelerations after a time step, implicit in the joints' damping."""
        h = float(self.model.opt.timestep)
        out = self.evaluate(q, v, warm, ctrl)
        qacc, damping = out.qacc, self.model.dof_damping
        if damping.any() and not self.model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_EULERDAMP:
            damped = [list(row) for row in out.mass]
            for dof, places in enumerate(self.tree.qvel):
                damped[dof][dof] = damped[dof][dof] + constant(h * damping[places])
            pushed = out.held.rows.push(out.held.forces(qacc))
            qacc = factor.Factor(self.tree, damped).solve(plus(out.smooth, pushed))
        v = plus(v, times(h, qacc))
        return self.move(q, v, h), v, out.qacc

    def move(self, q: Values, v: Values, h: Value) -> Values:
        """Coordinates after moving with ``v`` for ``h`` seconds."""
        moved = list(q)
        for joint in (joint for link in self.tree.links for joint in link.joints):
            at, dofs = joint.coordinates, joint.dofs
            for coordinate, dof in zip(at[:3], dofs[:3], strict=False):
                moved[coordinate] = q[coordinate] + h * v[dof]
            if joint.kind == "free":
                moved[at[3] : at[6] + 1] = turned([q[i] for i in at[3:]], [v[i] for i in dofs[3:]], h)
        return moved

    def point(self, pose: motion.Pose, body: int, offset: np.ndarray) -> Vector:
        """The position [3] in the world of a point of ``body``, of one lane."""
        _, at = self.tree.on_link(body, offset, np.array([1.0, 0, 0, 0]))
        local: Vector = [constant(x) for x in at]
        if body not in self.tree.place:
            return local
        link, lane = self.tree.place[body]
        there = plus(plus(pose.origin, pose.position[link]), rotate(pose.rotation[link], local))
        return [pick(x, lane) for x in there]

    def contact_forces(self, held: Held, forces: Values) -> list[Vector]:
        """[nbody][6] of contacts on each body, torque about its tree's centre of mass, then force."""
        whole = inertia.composites(
            self.tree, inertia.inertias(self.tree, held.pose.rotation, held.pose.position)
        )
        found: list[Vector] = [[0.0] * 6 for _ in range(self.model.nbody)]
        for touch, wrench in zip(held.rows.touches, held.rows.wrenches(forces), strict=True):
            for geom, sign in ((touch.pair.two, 1.0), (touch.pair.one, -1.0)):
                bodies = iter(self.model.geom_bodyid[geom.ids])
                for link, part in geom.parts(wrench) if geom.link >= 0 else ():
                    root = link
                    while self.tree.links[root].parent >= 0:
                        root = self.tree.links[root].parent
                    centre = times(1.0 / whole[root].mass, whole[root].first)
                    moved = minus(part[:3], cross(centre, part[3:])) + part[3:]
                    for lane in range(self.tree.links[link].lanes):
                        body = int(next(bodies))
                        found[body] = plus(found[body], [sign * pick(x, lane) for x in moved])
        return found


def pick(x: Value, lane: int) -> Value:
    """One lane of ``x`` as a number [1, N]."""
    array = raw(x)
    if isinstance(array, float) or array.shape[0] == 1:
        return x
    return float(array[lane, 0]) if isinstance(array, np.ndarray) else number(array[lane : lane + 1])


def turned(q: Vector, spin: Vector, h: Value) -> Vector:
    """A quaternion [4] after turning with ``spin`` [3], in its own frame, for ``h`` seconds."""
    square = dot(spin, spin)
    still = raw(square) == 0
    square = where(still, 1.0, square)
    speed = apply(jnp.sqrt, square)
    half = 0.5 * h * speed
    along = times(where(still, 0.0, apply(jnp.sin, half) / speed), spin)
    w = where(still, 1.0, apply(jnp.cos, half))
    new = [q[0] * w - dot(q[1:], along)]
    new += plus(plus(times(q[0], along), times(w, q[1:])), cross(q[1:], along))
    return times(1.0 / apply(jnp.sqrt, dot(new, new)), new)


def arrays(values: Values) -> tuple[jax.Array | float, ...]:
    """What a loop carries of them."""
    return tuple(raw(x) for x in values)


def numbers(arrays: Any) -> Values:
    """The values of what a loop carried."""
    return [number(x) for x in arrays]
