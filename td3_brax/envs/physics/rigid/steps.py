"""Time steps of many robots: in arrays over robots, and on NVIDIA's GPUs in one kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from td3_brax.envs.physics.rigid.compute_once import holding
from td3_brax.envs.physics.rigid.dynamics import Dynamics, Values, arrays, numbers
from td3_brax.envs.physics.rigid.lanes import Number, by_lane, choosing, of_lane, plus, raw, times
from td3_brax.kernels.gpu import triton_gpus

Arrays = tuple[jax.Array, ...]

BLOCK = 256
"""Robots that a core of a CPU takes at a time: as many as its cache holds."""


class Steps:
    """Time steps of ``model``; arguments as :class:`Dynamics` has them."""

    def __init__(self, model: mujoco.MjModel, iterations: int, line_search: int) -> None:
        self.model, self._how = model, (iterations, line_search)
        self.dynamics = Dynamics(model, *self._how)

    @cached_property
    def apart(self) -> Dynamics:
        """With less of what makes a CPU sooner, and what a GPU would start more for."""
        return Dynamics(self.model, *self._how, kernel=True)

    def __call__(
        self, frames: int, qpos: jax.Array, qvel: jax.Array, qacc: jax.Array, ctrl: jax.Array
    ) -> Any:
        """``frames`` time steps of N robots with controls [N, nu] held, from accelerations ``qacc``.

        Returns:
            qpos, qvel and qacc [N, ...] after them; qpos and qvel of the last evaluation.
        """
        return steps_p.bind(qpos, qvel, qacc, ctrl, steps=self, frames=frames)

    @cached_property
    def _early(self) -> Dynamics:
        return Dynamics(self.model, *self._how, early=True)

    def in_lanes(self, *inputs: jax.Array, frames: int, early: bool = False) -> Arrays:
        """The same by arrays over robots; ``early`` as :class:`Dynamics` has it."""
        qpos, qvel, qacc, ctrl = inputs
        dynamics = self._early if early else self.dynamics
        tree = dynamics.tree
        with holding(qpos):
            start = split(qpos, tree.qpos), split(qvel, tree.qvel), split(qacc, tree.qvel)
            control = split(ctrl, [places for *_, places in dynamics.motors])
            found = advance(dynamics, frames, *start, control)
        places = tree.qpos, tree.qvel, tree.qvel, tree.qpos, tree.qvel
        return tuple(join(x, at) for x, at in zip(found, places, strict=True))

    def in_threads(self, *inputs: jax.Array, frames: int, interpret: bool = False) -> Arrays:
        """The same by a kernel; ``interpret`` as there."""
        from td3_brax.kernels import rigid  # where there is none, nobody waits for its libraries

        tree, widths = self.apart.tree, [x.shape[1] for x in inputs]
        places = tree.qpos, tree.qvel, tree.qvel, tree.qpos, tree.qvel
        controls = [at for *_, at in self.apart.motors]

        def function(columns: Any) -> list[jax.Array]:
            parts = [columns[end - width : end] for end, width in zip(np.cumsum(widths), widths, strict=True)]
            read = zip(parts, (*places[:3], controls), strict=True)
            with choosing(), holding(columns[0]) if interpret else contextlib.nullcontext():
                values: list[Values] = [
                    [Number(by_lane([part[i] for i in at])) for at in every] for part, every in read
                ]
                found = zip(advance(self.apart, frames, *values), places, strict=True)
                return [_at(i, x, every) for x, every in found for i in range(_width(every))]

        whole = jnp.concatenate(inputs, axis=1)
        ends = np.cumsum([_width(at) for at in places])
        made = rigid.in_threads(function, whole, int(ends[-1]), interpret)
        return tuple(jnp.split(made, ends[:-1], axis=1))


def _width(places: list[list[int]]) -> int:
    return sum(len(at) for at in places)


def _at(i: int, parts: Arrays, places: list[list[int]]) -> jax.Array:
    """[1, N] of numbers [lanes, N] at ``places`` that at place ``i``."""
    part, lanes = next((part, at) for part, at in zip(parts, places, strict=True) if i in at)
    return part if len(lanes) == 1 or part.shape[0] == 1 else of_lane(part, lanes.index(i))


steps_p = Primitive("rigid_steps")
steps_p.multiple_results = True
steps_p.def_abstract_eval(lambda qpos, qvel, qacc, ctrl, **_: [qpos, qvel, qacc, qpos, qvel])


def _anywhere(*inputs: jax.Array, steps: Steps, frames: int) -> Arrays:
    return steps.in_lanes(*inputs, frames=frames)


def _on_cpu(*inputs: jax.Array, steps: Steps, frames: int) -> Arrays:
    def some(inputs: Any) -> Arrays:
        return steps.in_lanes(*inputs, frames=frames, early=True)

    count = inputs[0].shape[0]
    if count <= BLOCK or count % BLOCK:
        return some(inputs)
    blocks = tuple(x.reshape(count // BLOCK, BLOCK, -1) for x in inputs)
    made: Arrays = tuple(x.reshape(count, -1) for x in jax.lax.map(some, blocks))
    return made


def _on_nvidia(*inputs: jax.Array, steps: Steps, frames: int) -> Arrays:
    how = steps.in_threads if triton_gpus() else steps.in_lanes
    return how(*inputs, frames=frames)


steps_p.def_impl(_anywhere)
mlir.register_lowering(steps_p, mlir.lower_fun(_anywhere, multiple_results=True))
mlir.register_lowering(steps_p, mlir.lower_fun(_on_cpu, multiple_results=True), platform="cpu")
mlir.register_lowering(steps_p, mlir.lower_fun(_on_nvidia, multiple_results=True), platform="cuda")


def split(x: jax.Array, places: list[list[int]]) -> Values:
    """Numbers [lanes, N] of ``x`` [N, n] at ``places``."""
    return [Number(x.T[np.array(i)]) for i in places]


def join(parts: Arrays, places: list[list[int]]) -> jax.Array:
    """[N, n] of numbers [lanes, N] at ``places``."""
    order = np.argsort([i for lanes in places for i in lanes])
    return jnp.concatenate(parts)[order].T


def advance(dynamics: Dynamics, frames: int, q: Values, v: Values, warm: Values, ctrl: Values) -> Any:
    """Positions, velocities and accelerations after ``frames`` time steps; those before that the last
    evaluation was at: positions and velocities."""
    runge_kutta = dynamics.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    step: Callable[..., Any] = _runge_kutta if runge_kutta else _euler

    def frame(_: Any, carry: Any) -> Any:
        return tuple(map(arrays, step(dynamics, *map(numbers, carry[:3]), ctrl)))

    return jax.lax.fori_loop(0, frames, frame, tuple(map(arrays, (q, v, warm, q, v))))


def _euler(dynamics: Dynamics, q: Values, v: Values, warm: Values, ctrl: Values) -> tuple[Values, ...]:
    return *dynamics.euler(q, v, warm, ctrl), q, v


def _runge_kutta(dynamics: Dynamics, q: Values, v: Values, warm: Values, ctrl: Values) -> tuple[Values, ...]:
    """Of order 4, without a branch: the first stage moves by nothing."""
    h, dtype = float(dynamics.model.opt.timestep), raw(v[0]).dtype

    def stage(i: jax.Array, carry: Any) -> Any:
        speed, qacc, speeds, qaccs = map(numbers, carry[:4])
        # How far along the stage before: 0, 1/2, 1/2, 1. Weights: 1/6, 1/3, 1/3, 1/6.
        along = Number(0.5 * jnp.asarray(i + 1 >> 1, dtype))
        weight = Number((1 + jnp.asarray(i * (3 - i) >> 1, dtype)) / 6)
        at = dynamics.move(q, speed, h * along)
        now = plus(v, times(h * along, qacc))
        qacc = dynamics.evaluate(at, now, qacc, ctrl).qacc
        speeds, qaccs = plus(speeds, times(weight, now)), plus(qaccs, times(weight, qacc))
        return tuple(map(arrays, (now, qacc, speeds, qaccs, at)))

    zeros = tuple(jnp.zeros_like(raw(x)) for x in v)
    first = arrays(v), arrays(warm), zeros, zeros, arrays(q)
    now, qacc, speeds, qaccs, at = map(numbers, jax.lax.fori_loop(0, 4, stage, first))
    return dynamics.move(q, speeds, h), plus(v, times(h, qaccs)), qacc, at, now
