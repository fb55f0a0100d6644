"""The dynamics of many robots at once, with an interface for one robot as tasks need it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.physics.mjx.dynamics import State
from td3_brax.envs.physics.rigid.compute_once import computing_once
from td3_brax.envs.physics.rigid.dynamics import Values
from td3_brax.envs.physics.rigid.lanes import raw
from td3_brax.envs.physics.rigid.steps import Steps, join, split
from td3_brax.envs.physics.rigid.unsupported import unsupported_features

ITERATIONS, LINE_SEARCH = 8, 3
"""Newton and line search iterations that solve the constraints.

Of the states that Ant visits with random actions, one in 250 needs more than four Newton iterations. With two
line search iterations, one in 25 would not reach the minimum.
"""


@flax.struct.dataclass
class DynamicsOutput:
    """Results of the last evaluation that tasks may read. XLA does not compute fields that are not read."""

    qfrc_constraint: jax.Array
    """[nv] Forces of contacts and joint limits."""
    cfrc_ext: jax.Array
    """[nbody, 6] Contact forces on each body: torque about the tree's centre of mass, then force."""
    xpos: jax.Array
    """[nbody, 3] Positions of the body frames."""
    site_xpos: jax.Array
    """[nsite, 3] Positions of the sites."""


class RigidPhysics:
    """The dynamics of ``model``: a tree of joints with planes, spheres and capsules.

    Args:
        iterations: number of Newton iterations in each evaluation. On a CPU, the solver stops earlier if all
            robots are solved. 0 means the single iteration of ``mjx.step`` with the model's line search. None
            means 0 if the model asks for one iteration, else :data:`ITERATIONS`.
        line_search: number of line search iterations in each Newton iteration.
    Raises:
        ValueError: the model has unsupported features. The text names them.
    """

    def __init__(
        self, model: mujoco.MjModel, iterations: int | None = None, line_search: int = LINE_SEARCH
    ) -> None:
        if missing := unsupported_features(model):
            raise ValueError(f"a model with {', '.join(missing)}")
        self.mj_model = model
        if iterations is None:
            iterations = 0 if model.opt.iterations == 1 else ITERATIONS
        self._steps = Steps(model, iterations, line_search)
        self._dynamics = self._steps.kernel_dynamics
        limited = model.actuator_ctrllimited.astype(bool)
        self._range = [
            np.where(limited, end, far).astype(np.float32)
            for end, far in zip(model.actuator_ctrlrange.T, (-np.inf, np.inf), strict=True)
        ]

    def step(self, state: State, seen: Any, ctrl: jax.Array, view: Any, frames: int) -> tuple[State, Any]:
        """Take ``frames`` time steps with constant controls ``ctrl`` [nu].

        Returns:
            The state, and ``view`` of the last evaluation.
        """
        after, last = merge_vmaps(partial(self._step_batch, frames), state, ctrl)
        return after, view(last)

    def forward(self, state: State, ctrl: jax.Array) -> DynamicsOutput:
        """Evaluate the dynamics at ``state``."""
        return merge_vmaps(self._forward_batch, state, ctrl)

    def _forward_batch(self, state: State, ctrl: jax.Array) -> DynamicsOutput:
        """Evaluate the dynamics of N robots."""
        motors = [places for *_, places in self._dynamics.motors]
        q, v, warm = self._split(state)
        control = split(jnp.clip(ctrl, *self._range), motors)
        return self._output(q, v, self._dynamics.evaluate(q, v, warm, control).qacc)

    def _step_batch(self, frames: int, state: State, ctrl: jax.Array) -> tuple[State, DynamicsOutput]:
        """Take ``frames`` time steps of N robots."""
        control = jnp.clip(ctrl, *self._range)
        q, v, qacc, last_q, last_v = self._steps(frames, state.qpos, state.qvel, state.qacc, control)
        seen = self._output(*self._split(State(qpos=last_q, qvel=last_v, qacc=qacc)))
        return State(qpos=q, qvel=v, qacc=qacc), seen

    def _split(self, state: State) -> tuple[Values, Values, Values]:
        """Return coordinates, velocities and accelerations of N robots in lanes."""
        tree = self._dynamics.tree
        return split(state.qpos, tree.qpos), split(state.qvel, tree.qvel), split(state.qacc, tree.qvel)

    def _output(self, q: Values, v: Values, qacc: Values) -> DynamicsOutput:
        """Compute what tasks may read at coordinates ``q``, velocities ``v`` and accelerations ``qacc``."""
        dynamics, model, tree = self._dynamics, self.mj_model, self._dynamics.tree
        like = raw(qacc[0])[:1]

        def table(rows: list[Any], width: int) -> jax.Array:
            """Return the numbers [1, N] in ``rows`` as [N, rows, width]."""
            columns = [jnp.broadcast_to(raw(x), like.shape).astype(like.dtype) for row in rows for x in row]
            whole = jnp.concatenate(columns).T if columns else jnp.zeros((like.shape[1], 0), like.dtype)
            return whole.reshape(like.shape[1], len(rows), width)

        constraints = dynamics.constraints_at(q, v)
        forces = constraints.forces(qacc)
        pushed = zip(constraints.rows.transposed_product(forces), tree.qvel, strict=True)
        full = tuple(jnp.broadcast_to(raw(x), (len(i), like.shape[1])).astype(like.dtype) for x, i in pushed)
        places = [(b, np.zeros(3)) for b in range(model.nbody)]
        places += list(zip(map(int, model.site_bodyid), model.site_pos, strict=True))
        points = [dynamics.point_position(constraints.pose, body, offset) for body, offset in places]
        return DynamicsOutput(
            qfrc_constraint=join(full, tree.qvel),
            cfrc_ext=table(dynamics.contact_forces(constraints, forces), 6),
            xpos=table(points[: model.nbody], 3),
            site_xpos=table(points[model.nbody :], 3),
        )


def merge_vmaps(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call ``function`` of N environments [N, ...] for one. Any number of vmaps become a single call."""

    @jax.custom_batching.custom_vmap
    def many(*inputs: Any) -> Any:
        with computing_once(inputs[0].qpos):
            return function(*inputs)

    @many.def_vmap
    def _(size: int, batched: Any, *inputs: Any) -> Any:
        def flat(x: jax.Array, is_batched: bool) -> jax.Array:
            x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(size * x.shape[1], *x.shape[2:])

        out = many(*jax.tree.map(flat, inputs, tuple(batched)))
        out = jax.tree.map(lambda x: x.reshape(size, x.shape[0] // size, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return jax.tree.map(lambda x: x[0], many(*jax.tree.map(lambda x: x[None], inputs)))
