"""The dynamics of many robots at once, behind the functions of one that tasks are written with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.physics import State
from td3_brax.envs.rigid.dynamics import Dynamics, Evaluation, Values, arrays, numbers
from td3_brax.envs.rigid.hold import holding
from td3_brax.envs.rigid.lacks import lacks
from td3_brax.envs.rigid.lanes import Value, plus, raw, times

RUNGE_KUTTA = np.array([0, 0.5, 0.5, 1]), np.array([1, 2, 2, 1]) / 6
"""How far each stage looks along the one before, and its weight."""


@flax.struct.dataclass
class Seen:
    """What tasks may read of the last evaluation of the dynamics. What nobody reads is never computed."""

    qfrc_constraint: jax.Array
    """[nv] forces of contacts and limits."""
    cfrc_ext: jax.Array
    """[nbody, 6] contact forces on each body, torque about the tree's centre of mass, then force."""
    xpos: jax.Array
    """[nbody, 3] body frames."""
    site_xpos: jax.Array
    """[nsite, 3]."""


class RigidPhysics:
    """The dynamics of ``model``: :class:`td3_brax.envs.physics.Physics`, or MJX's own, of hinges and capsules.

    Args:
        iterations: of Newton's method in each evaluation; 0: MJX's one iteration.
        line_search: of the search along each of its directions.
        grouped: whether alike limbs share arrays.
    Raises:
        ValueError: a model with something that is not covered; the text names it.
    """

    def __init__(
        self, model: mujoco.MjModel, iterations: int = 0, line_search: int = 8, grouped: bool = True
    ) -> None:
        if missing := lacks(model):
            raise ValueError(f"a model with {', '.join(missing)}")
        self.host = model
        self._dynamics = Dynamics(model, iterations, line_search, grouped)
        limited = model.actuator_ctrllimited.astype(bool)
        self._range = [
            np.where(limited, end, far).astype(np.float32)
            for end, far in zip(model.actuator_ctrlrange.T, (-np.inf, np.inf), strict=True)
        ]

    def step(self, state: State, seen: Any, ctrl: jax.Array, view: Any, frames: int) -> tuple[State, Any]:
        """``frames`` time steps with controls [nu] held: the state, and ``view`` of the last evaluation."""
        after, last = _of_one(lambda *many: self._frames(*many, frames=frames), state, ctrl)
        return after, view(last)

    def forward(self, state: State, ctrl: jax.Array) -> Seen:
        """What the dynamics give at ``state``."""
        return _of_one(self._here, state, ctrl)

    def _here(self, state: State, ctrl: jax.Array) -> Seen:
        q, v, warm, control = self._split(state, ctrl)
        seen = self._see(self._dynamics.evaluate(q, v, warm, control), ctrl.shape[0])
        return self._shown(seen, ctrl.shape[0])

    def _frames(self, state: State, ctrl: jax.Array, frames: int) -> tuple[State, Seen]:
        """Of N robots."""
        q, v, warm, control = self._split(state, ctrl)
        runge_kutta = self.host.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        advance = self._runge_kutta if runge_kutta else self._euler
        count = ctrl.shape[0]
        first = (arrays(q), arrays(v), arrays(warm), self._nothing(count))
        q_, v_, warm_, seen = jax.lax.fori_loop(
            0, frames, lambda _, carry: advance(*map(numbers, carry[:3]), control, carry[3]), first
        )
        tree = self._dynamics.tree
        after = State(qpos=_join(q_, tree.qpos), qvel=_join(v_, tree.qvel), qacc=_join(warm_, tree.qvel))
        return after, self._shown(seen, count)

    def _euler(self, q: Values, v: Values, warm: Values, ctrl: Values, seen: Any) -> Any:
        moved, faster, out = self._dynamics.euler(q, v, warm, ctrl)
        return arrays(moved), arrays(faster), arrays(out.qacc), self._see(out, raw(v[0]).shape[-1])

    def _runge_kutta(self, q: Values, v: Values, warm: Values, ctrl: Values, seen: Any) -> Any:
        """Of order 4, without a branch: the first stage moves by nothing."""
        dynamics, h = self._dynamics, float(self.host.opt.timestep)

        def stage(carry: Any, x: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            (speed, qacc, speeds, qaccs), (along, weight) = map(numbers, carry[:4]), x
            before = speed, qacc
            now, out = dynamics.stage((q, v), before, numbers([along])[0], qacc_or(warm, qacc, along), ctrl)
            speeds, qaccs = plus(speeds, times(numbers([weight])[0], now)), plus(
                qaccs, times(numbers([weight])[0], out.qacc)
            )
            seen = self._see(out, raw(v[0]).shape[-1])
            return (arrays(now), arrays(out.qacc), arrays(speeds), arrays(qaccs), seen), None

        def qacc_or(warm: Values, qacc: Values, along: jax.Array) -> Values:
            return qacc

        zeros = tuple(jnp.zeros_like(raw(x)) for x in v)
        tableau = tuple(jnp.asarray(x, raw(v[0]).dtype) for x in RUNGE_KUTTA)
        (_, last, speeds, qaccs, seen), _ = jax.lax.scan(
            stage, (arrays(v), arrays(warm), zeros, zeros, seen), tableau
        )
        after = dynamics.move(q, numbers(speeds), h)
        return arrays(after), arrays(plus(v, times(h, numbers(qaccs)))), last, seen

    def _split(self, state: State, ctrl: jax.Array) -> tuple[Values, Values, Values, Values]:
        """Coordinates, velocities, last accelerations and controls of N robots, in lanes."""
        tree = self._dynamics.tree
        control = jnp.clip(ctrl, *self._range)
        parts = [(state.qpos, tree.qpos), (state.qvel, tree.qvel), (state.qacc, tree.qvel)]
        q, v, warm = ([numbers([x.T[np.array(i)]])[0] for i in places] for x, places in parts)
        return q, v, warm, [numbers([control.T[np.array(i)]])[0] for _, _, i in self._dynamics.motors]

    def _see(self, out: Evaluation, count: int) -> tuple[jax.Array, ...]:
        """[1, N] numbers of :class:`Seen`, lane by lane."""
        dynamics, model = self._dynamics, self.host
        pushed = out.rows.push(out.forces())
        lanes = [x for dof, places in zip(pushed, dynamics.tree.qvel, strict=True) for x in _spread(dof, len(places))]
        forces = [x for body in dynamics.contact_forces(out) for x in body]
        bodies = [dynamics.point(out.pose, b, np.zeros(3)) for b in range(model.nbody)]
        sites = [dynamics.point(out.pose, int(model.site_bodyid[s]), model.site_pos[s]) for s in range(model.nsite)]
        points = [x for point in bodies + sites for x in point]
        dtype = raw(out.qacc[0]).dtype
        return tuple(jnp.broadcast_to(jnp.asarray(raw(x), dtype), (1, count)) for x in lanes + forces + points)

    def _nothing(self, count: int) -> tuple[jax.Array, ...]:
        """What :meth:`_see` gives, in zeros."""
        size = self.host.nv + 9 * self.host.nbody + 3 * self.host.nsite
        return (jnp.zeros((1, count)),) * size

    def _shown(self, seen: tuple[jax.Array, ...], count: int) -> Seen:
        model = self.host
        every = jnp.concatenate(seen).T
        ends = np.cumsum([model.nv, 6 * model.nbody, 3 * model.nbody])
        pushed, forces, bodies, sites = jnp.split(every, ends, axis=1)
        order = np.argsort([i for places in self._dynamics.tree.qvel for i in places])
        return Seen(
            qfrc_constraint=pushed[:, order],
            cfrc_ext=forces.reshape(count, -1, 6),
            xpos=bodies.reshape(count, -1, 3),
            site_xpos=sites.reshape(count, -1, 3),
        )


def _of_one(of_many: Callable[..., Any], *inputs: Any) -> Any:
    """``of_many`` environments [N, ...] for one; all that it is vmapped over are taken together."""

    @jax.custom_batching.custom_vmap
    def many(*inputs: Any) -> Any:
        with holding(inputs[0].qpos):
            return of_many(*inputs)

    @many.def_vmap
    def _(size: int, batched: Any, *inputs: Any) -> Any:
        def flat(x: jax.Array, is_batched: bool) -> jax.Array:
            x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        out = many(*jax.tree.map(flat, inputs, tuple(batched)))
        out = jax.tree.map(lambda x: x.reshape(size, x.shape[0] // size, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return jax.tree.map(lambda x: x[0], many(*jax.tree.map(lambda x: x[None], inputs)))


def _spread(x: Value, lanes: int) -> Values:
    """Each lane of ``x``."""
    array = raw(x)
    alike = isinstance(array, float) or array.shape[0] == 1
    return [x] * lanes if alike else numbers([array[i : i + 1] for i in range(lanes)])


def _join(parts: tuple[jax.Array, ...], places: list[list[int]]) -> jax.Array:
    """[N, n] of numbers [lanes, N] at ``places``."""
    order = np.argsort([i for lanes in places for i in lanes])
    return jnp.concatenate(parts)[order].T
