"""Time steps of many robots: as arrays over robots, and on NVIDIA GPUs in one kernel."""

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

from td3_brax.envs.physics.rigid.compute_once import computing_once
from td3_brax.envs.physics.rigid.dynamics import Dynamics, Values, to_arrays, to_values
from td3_brax.envs.physics.rigid.lanes import (
    Number,
    extract_lane,
    plus,
    raw,
    select_by_lane,
    selecting_by_lane,
    times,
)
from td3_brax.kernels.gpu import triton_gpus

Arrays = tuple[jax.Array, ...]

BLOCK = 256
"""Robots that a CPU core steps at a time: as many as fit in its cache."""


class Steps:
    """Time steps of ``model``. The arguments are those of :class:`Dynamics`."""

    def __init__(self, model: mujoco.MjModel, iterations: int, line_search: int) -> None:
        self.model, self._solver_options = model, (iterations, line_search)
        self.dynamics = Dynamics(model, *self._solver_options)

    @cached_property
    def kernel_dynamics(self) -> Dynamics:
        """The dynamics for kernels, without optimisations for CPUs that would cost a GPU more operations."""
        return Dynamics(self.model, *self._solver_options, kernel=True)

    def __call__(
        self, frames: int, qpos: jax.Array, qvel: jax.Array, qacc: jax.Array, ctrl: jax.Array
    ) -> Any:
        """Take ``frames`` time steps of N robots with constant controls ``ctrl`` [N, nu].

        The solver starts from accelerations ``qacc``.

        Returns:
            qpos, qvel and qacc [N, ...] after the steps, then qpos and qvel of the last evaluation.
        """
        return steps_p.bind(qpos, qvel, qacc, ctrl, steps=self, frames=frames)

    @cached_property
    def _stopping_dynamics(self) -> Dynamics:
        return Dynamics(self.model, *self._solver_options, stop_early=True)

    def run_arrays(self, *inputs: jax.Array, frames: int, stop_early: bool = False) -> Arrays:
        """Take the steps with arrays over robots. See :class:`Dynamics` for ``stop_early``."""
        qpos, qvel, qacc, ctrl = inputs
        dynamics = self._stopping_dynamics if stop_early else self.dynamics
        tree = dynamics.tree
        with computing_once(qpos):
            start = split(qpos, tree.qpos), split(qvel, tree.qvel), split(qacc, tree.qvel)
            control = split(ctrl, [places for *_, places in dynamics.motors])
            found = advance(dynamics, frames, *start, control)
        places = tree.qpos, tree.qvel, tree.qvel, tree.qpos, tree.qvel
        return tuple(join(x, at) for x, at in zip(found, places, strict=True))

    def run_kernel(self, *inputs: jax.Array, frames: int, interpret: bool = False) -> Arrays:
        """Take the steps in a GPU kernel. See :func:`td3_brax.kernels.rigid.in_threads` for ``interpret``."""
        from td3_brax.kernels import rigid  # imported here, as it is slow and needed on a GPU only

        tree, widths = self.kernel_dynamics.tree, [x.shape[1] for x in inputs]
        places = tree.qpos, tree.qvel, tree.qvel, tree.qpos, tree.qvel
        controls = [at for *_, at in self.kernel_dynamics.motors]

        def function(columns: Any) -> list[jax.Array]:
            parts = [columns[end - width : end] for end, width in zip(np.cumsum(widths), widths, strict=True)]
            read = zip(parts, (*places[:3], controls), strict=True)
            with selecting_by_lane(), computing_once(columns[0]) if interpret else contextlib.nullcontext():
                values: list[Values] = [
                    [Number(select_by_lane([part[i] for i in at])) for at in every] for part, every in read
                ]
                found = zip(advance(self.kernel_dynamics, frames, *values), places, strict=True)
                return [_row(i, x, every) for x, every in found for i in range(_count(every))]

        whole = jnp.concatenate(inputs, axis=1)
        ends = np.cumsum([_count(at) for at in places])
        made = rigid.in_threads(function, whole, int(ends[-1]), interpret)
        return tuple(jnp.split(made, ends[:-1], axis=1))


def _count(places: list[list[int]]) -> int:
    """Return the number of indices in ``places``."""
    return sum(len(at) for at in places)


def _row(i: int, parts: Arrays, places: list[list[int]]) -> jax.Array:
    """Return [1, N]: the number at index ``i``, from ``parts`` [lanes, N] at indices ``places``."""
    part, lanes = next((part, at) for part, at in zip(parts, places, strict=True) if i in at)
    return part if len(lanes) == 1 or part.shape[0] == 1 else extract_lane(part, lanes.index(i))


steps_p = Primitive("rigid_steps")
steps_p.multiple_results = True
steps_p.def_abstract_eval(lambda qpos, qvel, qacc, ctrl, **_: [qpos, qvel, qacc, qpos, qvel])


def _lower_anywhere(*inputs: jax.Array, steps: Steps, frames: int) -> Arrays:
    return steps.run_arrays(*inputs, frames=frames)


def _lower_for_cpu(*inputs: jax.Array, steps: Steps, frames: int) -> Arrays:
    def step_block(inputs: Any) -> Arrays:
        return steps.run_arrays(*inputs, frames=frames, stop_early=True)

    count = inputs[0].shape[0]
    if count <= BLOCK or count % BLOCK:
        return step_block(inputs)
    blocks = tuple(x.reshape(count // BLOCK, BLOCK, -1) for x in inputs)
    made: Arrays = tuple(x.reshape(count, -1) for x in jax.lax.map(step_block, blocks))
    return made


def _lower_for_cuda(*inputs: jax.Array, steps: Steps, frames: int) -> Arrays:
    how = steps.run_kernel if triton_gpus() else steps.run_arrays
    return how(*inputs, frames=frames)


steps_p.def_impl(_lower_anywhere)
mlir.register_lowering(steps_p, mlir.lower_fun(_lower_anywhere, multiple_results=True))
mlir.register_lowering(steps_p, mlir.lower_fun(_lower_for_cpu, multiple_results=True), platform="cpu")
mlir.register_lowering(steps_p, mlir.lower_fun(_lower_for_cuda, multiple_results=True), platform="cuda")


def split(x: jax.Array, places: list[list[int]]) -> Values:
    """Split ``x`` [N, n] into numbers [lanes, N] at the indices ``places``."""
    return [Number(x.T[np.array(i)]) for i in places]


def join(parts: Arrays, places: list[list[int]]) -> jax.Array:
    """Join numbers [lanes, N] at the indices ``places`` into an array [N, n]."""
    order = np.argsort([i for lanes in places for i in lanes])
    return jnp.concatenate(parts)[order].T


def advance(dynamics: Dynamics, frames: int, q: Values, v: Values, warm: Values, ctrl: Values) -> Any:
    """Take ``frames`` time steps.

    Returns:
        Positions, velocities and accelerations after the steps, then positions and velocities of the last
        evaluation.
    """
    runge_kutta = dynamics.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    step: Callable[..., Any] = _runge_kutta if runge_kutta else _euler

    def frame(_: Any, carry: Any) -> Any:
        return tuple(map(to_arrays, step(dynamics, *map(to_values, carry[:3]), ctrl)))

    return jax.lax.fori_loop(0, frames, frame, tuple(map(to_arrays, (q, v, warm, q, v))))


def _euler(dynamics: Dynamics, q: Values, v: Values, warm: Values, ctrl: Values) -> tuple[Values, ...]:
    return *dynamics.euler(q, v, warm, ctrl), q, v


def _runge_kutta(dynamics: Dynamics, q: Values, v: Values, warm: Values, ctrl: Values) -> tuple[Values, ...]:
    """Take a fourth-order Runge-Kutta step. The first stage moves by 0, so the loop needs no branch."""
    h, dtype = float(dynamics.model.opt.timestep), raw(v[0]).dtype

    def stage(i: jax.Array, carry: Any) -> Any:
        speed, qacc, speeds, qaccs = map(to_values, carry[:4])
        # Stage times: 0, 1/2, 1/2, 1. Weights: 1/6, 1/3, 1/3, 1/6.
        along = Number(0.5 * jnp.asarray(i + 1 >> 1, dtype))
        weight = Number((1 + jnp.asarray(i * (3 - i) >> 1, dtype)) / 6)
        at = dynamics.move(q, speed, h * along)
        now = plus(v, times(h * along, qacc))
        qacc = dynamics.evaluate(at, now, qacc, ctrl).qacc
        speeds, qaccs = plus(speeds, times(weight, now)), plus(qaccs, times(weight, qacc))
        return tuple(map(to_arrays, (now, qacc, speeds, qaccs, at)))

    zeros = tuple(jnp.zeros_like(raw(x)) for x in v)
    first = to_arrays(v), to_arrays(warm), zeros, zeros, to_arrays(q)
    now, qacc, speeds, qaccs, at = map(to_values, jax.lax.fori_loop(0, 4, stage, first))
    return dynamics.move(q, speeds, h), plus(v, times(h, qaccs)), qacc, at, now
