"""MuJoCo's dynamics of one robot: MJX's kinematics, inertias and smooth forces, and constraints of our own.

All functions are of one environment.
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
    """What the next step starts from."""

    qpos: jax.Array
    """[nq] positions."""
    qvel: jax.Array
    """[nv] velocities."""
    qacc: jax.Array
    """[nv] the last accelerations, where the solver starts."""


@flax.struct.dataclass
class Forward:
    """What the dynamics give at a position and velocity. What nobody reads is never computed."""

    qacc: jax.Array
    """[nv]."""
    qfrc: jax.Array
    """[nv] all forces."""
    qfrc_constraint: jax.Array
    """[nv] those of contacts and limits."""
    cfrc_ext: jax.Array
    """[nbody, 6] contact forces on each body, torque about the tree's centre of mass, then force."""
    xpos: jax.Array
    """[nbody, 3] body frames."""
    site_xpos: jax.Array
    """[nsite, 3]."""
    mass: jax.Array
    """[nv, nv] the mass matrix."""
    active: jax.Array
    """[] contacts within their margin."""


class Physics:
    """The dynamics of ``model``.

    Args:
        model: a model without unsupported features (``unsupported.py``); a fluid is supported.
        contacts: most contacts that are active at a time (None: all that can be).
        iterations: of Newton's method, in each evaluation of the accelerations.
        line_search: of the search along each of its directions.
    Raises:
        ValueError: a model with more than that.
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
        """``frames`` time steps with controls [nu] held.

        Args:
            seen: an earlier ``view``.
            view: what to keep of the last :class:`Forward`.
        Returns:
            the state, and ``view`` of the last evaluation, which as in MuJoCo lags behind the positions.
        """
        advance = self._rk4 if self.mj_model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4 else self._euler

        def frame(carry: tuple[State, Any], _: None) -> tuple[tuple[State, Any], None]:
            return advance(*carry, ctrl, view), None

        return jax.lax.scan(frame, (state, seen), length=frames)[0]

    def _euler(self, state: State, _: Any, ctrl: jax.Array, view: Any) -> tuple[State, Any]:
        """Semi-implicit Euler, implicit in the joints' damping."""
        out = self.forward(state, ctrl)
        h, damping = self.mj_model.opt.timestep, self.mj_model.dof_damping
        qacc = out.qacc
        if damping.any() and not self.mj_model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_EULERDAMP:
            qacc = solve(out.mass + jnp.diag(jnp.asarray(h * damping, jnp.float32)), out.qfrc)
        qvel = state.qvel + h * qacc
        return State(qpos=self._move(state.qpos, qvel, h), qvel=qvel, qacc=out.qacc), view(out)

    def _rk4(self, state: State, seen: Any, ctrl: jax.Array, view: Any) -> tuple[State, Any]:
        """Runge-Kutta of order 4, without a branch: the first stage moves by nothing."""
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
        """Positions after moving with ``qvel`` for ``h`` seconds."""
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
        """Accelerations and forces at ``state`` under controls [nu]."""
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
    """Product of quaternions [4]."""
    w = a[0] * b[0] - a[1:] @ b[1:]
    return jnp.concatenate([w[None], a[0] * b[1:] + b[0] * a[1:] + jnp.cross(a[1:], b[1:])])
