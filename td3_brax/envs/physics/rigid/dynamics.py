"""One evaluation of a robot's dynamics, and its integration over a time step, in lanes of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.physics.rigid import factor, inertia, motion, pairs, solver
from td3_brax.envs.physics.rigid.constraints import Constraints, joint_limits
from td3_brax.envs.physics.rigid.lanes import (
    Matrix,
    Value,
    Vector,
    apply,
    broadcast_like,
    constant,
    cross,
    dot,
    minus,
    plus,
    raw,
    rotate,
    times,
    to_value,
    where,
)
from td3_brax.envs.physics.rigid.tree import Tree

Values = list[Value]


@dataclass
class ConstraintState:
    """The constraints at a position and velocity."""

    pose: motion.Pose
    rows: Constraints
    references: Values
    """Reference acceleration of each row."""

    def forces(self, qacc: Values) -> Values:
        """Return the force of each row at accelerations ``qacc``."""
        residual = minus(self.rows.jacobian_product(qacc), self.references)
        return [where(raw(r) < 0, -(d * r), 0.0) for r, d in zip(residual, self.rows.weights, strict=True)]


@dataclass
class Evaluation:
    """Results of the dynamics at a position and velocity, by degree of freedom."""

    constraints: ConstraintState
    mass: Matrix
    smooth: Values
    """All forces except those of the constraints."""
    qacc: Values


class Dynamics:
    """The dynamics of ``model``, which must have no unsupported features (``unsupported.py``).

    Args:
        iterations: number of Newton iterations in each evaluation. 0 means the single iteration of MJX.
        line_search: number of line search iterations in each Newton iteration.
        kernel: whether to arrange lanes for a GPU kernel: only links of the same structure share lanes, and
            their number is a power of two.
        stop_early: whether Newton's method stops once all robots are solved. This makes loops of unknown
            length, which are slow on a GPU.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        iterations: int,
        line_search: int,
        kernel: bool = False,
        stop_early: bool = False,
    ) -> None:
        self.model, self.iterations, self.line_search = model, iterations, line_search
        self._stop_early = stop_early
        collision_pairs = pairs.collision_pairs(model)
        self.tree = Tree(model, collision_pairs, merge_rows=not kernel)
        if kernel and any(link.lanes & (link.lanes - 1) for link in self.tree.links):
            self.tree = Tree(model, collision_pairs, share_lanes=False, merge_rows=False)
        self.pairs = pairs.group_pairs(self.tree, collision_pairs)
        self.limits = joint_limits(self.tree)
        self.motors: list[tuple[int, Value, list[int]]] = []
        """For each motor: its degree of freedom, its gear, and its indices [lanes] among the controls."""
        of_joint = {int(model.actuator_trnid[a, 0]): a for a in range(model.nu)}
        for joint in (joint for link in self.tree.links for joint in link.joints):
            if joint.ids[0] in of_joint:
                places = [of_joint[j] for j in joint.ids]
                self.motors.append((joint.dofs[0], constant(model.actuator_gear[places, 0]), places))

    def constraints_at(self, q: Values, v: Values) -> ConstraintState:
        """Return the constraints at coordinates ``q`` and velocities ``v``."""
        pose = motion.forward_kinematics(self.tree, q)
        rows = Constraints(self.tree, pose, self.limits, self.pairs, q, align_steep=self.iterations > 0)
        return ConstraintState(pose, rows, rows.references(v))

    def evaluate(self, q: Values, v: Values, warm: Values, ctrl: Values) -> Evaluation:
        """Evaluate the dynamics at coordinates ``q``, velocities ``v``. The solver starts from ``warm``."""
        tree, constraints = self.tree, self.constraints_at(q, v)
        inertias = inertia.link_inertias(tree, constraints.pose.rotation, constraints.pose.position)
        composites = inertia.composite_inertias(tree, inertias)
        mass = motion.assemble_matrix(
            tree, constraints.pose, lambda link, screw: composites[link].momentum(screw)
        )
        for dof, places in enumerate(tree.qvel):
            mass[dof][dof] = mass[dof][dof] + constant(self.model.dof_armature[places])
        smooth = minus(self._passive(q, v), motion.bias_forces(tree, constraints.pose, inertias, v))
        for (dof, gear, _), control in zip(self.motors, ctrl, strict=True):
            smooth[dof] = smooth[dof] + gear * control
        rows, references = constraints.rows, constraints.references
        if not rows.weights:
            qacc = factor.Factor(tree, mass).solve(smooth)
        elif self.iterations:
            how = self.iterations, self.line_search, self._stop_early
            qacc = solver.newton(tree, mass, smooth, rows, references, warm, *how)
        else:
            qacc = solver.mjx_single_iteration(tree, mass, smooth, rows, references, warm)
        return Evaluation(
            constraints, mass, smooth, [broadcast_like(x, like) for x, like in zip(qacc, v, strict=True)]
        )

    def _passive(self, q: Values, v: Values) -> Values:
        """Return the forces of the joints' springs and dampers."""
        model = self.model
        forces = [-constant(model.dof_damping[i]) * speed for i, speed in zip(self.tree.qvel, v, strict=True)]
        for joint in (joint for link in self.tree.links for joint in link.joints):
            if joint.kind != "free":
                rest = constant(model.qpos_spring[model.jnt_qposadr[joint.ids]])
                pull = constant(model.jnt_stiffness[joint.ids]) * (q[joint.coordinates[0]] - rest)
                forces[joint.dofs[0]] = forces[joint.dofs[0]] - pull
        return forces

    def euler(self, q: Values, v: Values, warm: Values, ctrl: Values) -> tuple[Values, Values, Values]:
        """Return positions, velocities and accelerations after an Euler step, implicit in the damping."""
        h = float(self.model.opt.timestep)
        out = self.evaluate(q, v, warm, ctrl)
        qacc, damping = out.qacc, self.model.dof_damping
        if damping.any() and not self.model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_EULERDAMP:
            damped = [list(row) for row in out.mass]
            for dof, places in enumerate(self.tree.qvel):
                damped[dof][dof] = damped[dof][dof] + constant(h * damping[places])
            pushed = out.constraints.rows.transposed_product(out.constraints.forces(qacc))
            qacc = factor.Factor(self.tree, damped).solve(plus(out.smooth, pushed))
        v = plus(v, times(h, qacc))
        return self.move(q, v, h), v, out.qacc

    def move(self, q: Values, v: Values, h: Value) -> Values:
        """Return the coordinates after moving with velocities ``v`` for ``h`` seconds."""
        moved = list(q)
        for joint in (joint for link in self.tree.links for joint in link.joints):
            at, dofs = joint.coordinates, joint.dofs
            for coordinate, dof in zip(at[:3], dofs[:3], strict=False):
                moved[coordinate] = q[coordinate] + h * v[dof]
            if joint.kind == "free":
                moved[at[3] : at[6] + 1] = rotated_quaternion(
                    [q[i] for i in at[3:]], [v[i] for i in dofs[3:]], h
                )
        return moved

    def point_position(self, pose: motion.Pose, body: int, offset: np.ndarray) -> Vector:
        """Return the world position [3] of the point of ``body`` at ``offset``."""
        _, at = self.tree.pose_on_link(body, offset, np.array([1.0, 0, 0, 0]))
        local: Vector = [constant(x) for x in at]
        if body not in self.tree.link_and_lane:
            return local
        link, lane = self.tree.link_and_lane[body]
        position = plus(plus(pose.origin, pose.position[link]), rotate(pose.rotation[link], local))
        return [take_lane(x, lane) for x in position]

    def contact_forces(self, constraints: ConstraintState, forces: Values) -> list[Vector]:
        """Return the contact forces [nbody][6] on the bodies for ``forces`` of the rows.

        Each is the torque about the centre of mass of the body's tree, then the force.
        """
        composites = inertia.composite_inertias(
            self.tree, inertia.link_inertias(self.tree, constraints.pose.rotation, constraints.pose.position)
        )
        found: list[Vector] = [[0.0] * 6 for _ in range(self.model.nbody)]
        for contact, wrench in zip(constraints.rows.contacts, constraints.rows.wrenches(forces), strict=True):
            for geom, sign in ((contact.pair.geom2, 1.0), (contact.pair.geom1, -1.0)):
                bodies = iter(self.model.geom_bodyid[geom.ids])
                for link, part in geom.split_by_link(wrench) if geom.link >= 0 else ():
                    root = link
                    while self.tree.links[root].parent >= 0:
                        root = self.tree.links[root].parent
                    centre = times(1.0 / composites[root].mass, composites[root].first_moment)
                    moved = minus(part[:3], cross(centre, part[3:])) + part[3:]
                    for lane in range(self.tree.links[link].lanes):
                        body = int(next(bodies))
                        found[body] = plus(found[body], [sign * take_lane(x, lane) for x in moved])
        return found


def take_lane(x: Value, lane: int) -> Value:
    """Return one lane of ``x``, [1, N]."""
    array = raw(x)
    if isinstance(array, float) or array.shape[0] == 1:
        return x
    return float(array[lane, 0]) if isinstance(array, np.ndarray) else to_value(array[lane : lane + 1])


def rotated_quaternion(q: Vector, spin: Vector, h: Value) -> Vector:
    """Rotate the quaternion ``q`` [4] with angular velocity ``spin`` [3], in its frame, for ``h`` seconds."""
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


def to_arrays(values: Values) -> tuple[jax.Array | float, ...]:
    """Return the arrays and floats in ``values``, for a loop to carry."""
    return tuple(raw(x) for x in values)


def to_values(arrays: Any) -> Values:
    """Return the values of the ``arrays`` that a loop carried."""
    return [to_value(x) for x in arrays]
