"""MuJoCo's dynamics of one robot: MJX's kinematics, inertias and smooth forces with our own constraints.

All functions handle one environment.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import mujoco

from td3_brax.envs.physics.mjx.constraints import Contacts, Limits, solve, solve_accelerations
from td3_brax.envs.physics.mjx.patched import mjx
from td3_brax.envs.physics.rigid.unsupported import FLUID, unsupported_features


@flax.struct.dataclass
class State:
    """The physical state that the next step starts from."""

    qpos: jax.Array
    """[nq] Positions."""
    qvel: jax.Array
    """[nv] Velocities."""
    qacc: jax.Array
    """[nv] Accelerations of the last evaluation, from which the solver starts."""


@flax.struct.dataclass
class Forward:
    """Results of one evaluation of the dynamics. XLA does not compute fields that are not read."""

    qacc: jax.Array
    """[nv] Accelerations."""
    qfrc: jax.Array
    """[nv] Sum of all forces."""
    qfrc_constraint: jax.Array
    """[nv] Forces of contacts and joint limits."""
    cfrc_ext: jax.Array
    """[nbody, 6] Contact forces on each body: torque about the tree's centre of mass, then force."""
    xpos: jax.Array
    """[nbody, 3] Positions of the body frames."""
    site_xpos: jax.Array
    """[nsite, 3] Positions of the sites."""
    mass: jax.Array
    """[nv, nv] Mass matrix."""
    active: jax.Array
    """[] Number of active contacts."""


class Physics:
    """The dynamics of ``model``.

    Args:
        model: a model without unsupported features (``unsupported.py``), except that a fluid is supported.
        contacts: largest number of contacts that are active at a time. None allows all possible contacts.
        iterations: number of Newton iterations in each evaluation of the accelerations.
        line_search: number of line search iterations in each Newton iteration.
    Raises:
        ValueError: the model has unsupported features. The text names them.
    """

    def __init__(
        self, model: mujoco.MjModel, contacts: int | None = None, iterations: int = 4, line_search: int = 8
    ) -> None:
        if missing := [name for name in unsupported_features(model) if name != FLUID]:
            raise ValueError(f"a model with {', '.join(missing)}")
        self.iterations = iterations
        self.line_search = line_search
        self.mj_model = model
        self.mjx_model = mjx.put_model(model, impl="jax")
        self.limits = Limits(model)
        self.contacts = Contacts(model, self.mjx_model, contacts)

    def step(self, state: State, seen: Any, ctrl: jax.Array, view: Any, frames: int) -> tuple[State, Any]:
        """Take ``frames`` time steps with constant controls ``ctrl`` [nu].

        Args:
            seen: the result of an earlier ``view``.
            view: function that selects what to keep of a :class:`Forward`.
        Returns:
            The state, and ``view`` of the last evaluation. As in MuJoCo, that evaluation lags behind the
            returned positions.
        """
        advance = self._rk4 if self.mj_model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4 else self._euler

        def frame(carry: tuple[State, Any], _: None) -> tuple[tuple[State, Any], None]:
            return advance(*carry, ctrl, view), None

        return jax.lax.scan(frame, (state, seen), length=frames)[0]

    def _euler(self, state: State, _: Any, ctrl: jax.Array, view: Any) -> tuple[State, Any]:
        """Take a semi-implicit Euler step, implicit in the joint damping."""
        out = self.forward(state, ctrl)
        h, damping = self.mj_model.opt.timestep, self.mj_model.dof_damping
        qacc = out.qacc
        if damping.any() and not self.mj_model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_EULERDAMP:
            qacc = solve(out.mass + jnp.diag(jnp.asarray(h * damping, jnp.float32)), out.qfrc)
        qvel = state.qvel + h * qacc
        return State(qpos=self._move(state.qpos, qvel, h), qvel=qvel, qacc=out.qacc), view(out)

    def _rk4(self, state: State, seen: Any, ctrl: jax.Array, view: Any) -> tuple[State, Any]:
        """Take a fourth-order Runge-Kutta step. The first stage moves by 0, so the loop needs no branch."""
        h = self.mj_model.opt.timestep

        def stage(carry: Any, x: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            velocity, acceleration, velocities, accelerations, warm, _ = carry
            along, weight = x
            at = State(
                qpos=self._move(state.qpos, velocity, h * along),
                qvel=state.qvel + h * along * acceleration,
                qacc=warm,
            )
            out = self.forward(at, ctrl)
            velocities = velocities + weight * at.qvel
            accelerations = accelerations + weight * out.qacc
            return (at.qvel, out.qacc, velocities, accelerations, out.qacc, view(out)), None

        zero = jnp.zeros_like(state.qvel)
        tableau = jnp.array([0, 0.5, 0.5, 1]), jnp.array([1, 2, 2, 1]) / 6
        start = (state.qvel, zero, zero, zero, state.qacc, seen)
        (_, _, qvel, qacc, last, seen), _ = jax.lax.scan(stage, start, tableau)
        after = State(qpos=self._move(state.qpos, qvel, h), qvel=state.qvel + h * qacc, qacc=last)
        return after, seen

    def _move(self, qpos: jax.Array, qvel: jax.Array, h: jax.Array | float) -> jax.Array:
        """Return the positions after moving with velocities ``qvel`` for ``h`` seconds."""
        model = self.mj_model
        if model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE:
            return qpos + h * qvel
        turn = qvel[3:6] * h
        angle = jnp.linalg.norm(jnp.where(jnp.any(turn != 0), turn, 1.0)) * jnp.any(turn != 0)
        half = 0.5 * angle
        sinc = jnp.where(angle > 1e-6, jnp.sin(half) / jnp.maximum(angle, 1e-12), 0.5)
        quaternion = multiply(qpos[3:7], jnp.concatenate([jnp.cos(half)[None], sinc * turn]))
        quaternion = quaternion / jnp.linalg.norm(quaternion)
        return jnp.concatenate([qpos[:3] + h * qvel[:3], quaternion, qpos[7:] + h * qvel[6:]])

    def forward(self, state: State, ctrl: jax.Array) -> Forward:
        """Evaluate the dynamics at ``state`` with controls ``ctrl`` [nu]."""
        m, limits, contacts = self.mjx_model, self.limits, self.contacts
        d = mjx.make_data(m).replace(qpos=state.qpos, qvel=state.qvel, ctrl=ctrl)
        d = mjx.crb(m, mjx.com_pos(m, mjx.kinematics(m, d)))
        d = mjx.rne(m, mjx.passive(m, mjx.com_vel(m, d)))
        d = mjx.fwd_actuation(m, mjx.transmission(m, d))
        smooth = d.qfrc_passive - d.qfrc_bias + d.qfrc_actuator
        mass = mjx.full_m(m, d)
        rows = [limits.rows(d)] if limits.count else []
        active, cfrc_ext = jnp.int32(0), jnp.zeros((self.mj_model.nbody, 6))
        if contacts.possible:
            found, active = contacts.detect(mjx.collision(m, d))
            rows.append(contacts.rows(d, found))
        if rows:
            every = jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
            qacc = solve_accelerations(mass, smooth, every, state.qacc, self.iterations, self.line_search)
            forces = every.forces(qacc)
            constraint = forces @ every.jacobian
            if contacts.possible:
                cfrc_ext = contacts.on_bodies(d, found, forces[limits.count :])
        else:
            qacc, constraint = solve(mass, smooth), jnp.zeros_like(smooth)
        return Forward(
            qacc=qacc,
            qfrc=smooth + constraint,
            qfrc_constraint=constraint,
            cfrc_ext=cfrc_ext,
            xpos=d.xpos,
            site_xpos=d.site_xpos,
            mass=mass,
            active=active,
        )


def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the product of the quaternions ``a`` and ``b`` [4]."""
    w = a[0] * b[0] - a[1:] @ b[1:]
    return jnp.concatenate([w[None], a[0] * b[1:] + b[0] * a[1:] + jnp.cross(a[1:], b[1:])])
