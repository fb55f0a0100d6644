"""Accelerations under soft constraints, by Newton's method or MJX's single iteration of it.

Both minimise 1/2 (x - x0)' M (x - x0) + 1/2 sum of D min(J x - a, 0)^2 with M x0 = the smooth forces
(MuJoCo's documentation, "Computation").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.envs.physics.rigid.constraints import Constraints
from td3_brax.envs.physics.rigid.factor import Factor, inner, multiply, sum_over_lanes
from td3_brax.envs.physics.rigid.lanes import Matrix, Value, apply, minus, plus, raw, times, to_value, where
from td3_brax.envs.physics.rigid.search import Search, bounded_newton_step, mjx_step_length
from td3_brax.envs.physics.rigid.tree import Tree


def _repeat(body: Callable[[Any], Any], start: Any, count: int, stop_early: bool) -> Any:
    """Apply ``body`` ``count`` times, starting with ``start``.

    Args:
        body: maps the carried arrays to new ones, and to the robots [1, N] that need another iteration.
        stop_early: whether to stop when no robot needs another iteration. Solved robots are not changed.
    """
    if not stop_early:
        return jax.lax.fori_loop(0, count, lambda _, carry: body(carry)[0], start)

    def going(carry: Any) -> jax.Array:
        done, left, _ = carry
        return (done < count) & left.any()

    def once(carry: Any) -> Any:
        done, left, before = carry
        after, more = body(before)
        return done + 1, left & more, tuple(jnp.where(left, a, b) for a, b in zip(after, before, strict=True))

    left = jnp.ones((1, start[0].shape[1]), bool)
    return jax.lax.while_loop(going, once, (0, left, start))[2]


def newton(
    tree: Tree,
    mass: Matrix,
    smooth: list[Value],
    rows: Constraints,
    references: list[Value],
    start: list[Value],
    iterations: int,
    line_search: int,
    stop_early: bool,
) -> list[Value]:
    """Minimise by Newton's method from ``start``, with a bounded Newton line search.

    The cost is quadratic as long as the same rows are active, so a step that changes none is the last.
    """

    def iteration(carry: Any) -> Any:
        x = [to_value(a) for a in carry]
        residual = minus(rows.jacobian_product(x), references)
        search = _newton_search(tree, mass, smooth, rows, residual, multiply(tree, mass, x))
        step = bounded_newton_step(search, line_search)
        after = tuple(raw(a + step * b) for a, b in zip(x, search.direction, strict=True))
        return after, search.active_rows_change(step)

    return [to_value(a) for a in _repeat(iteration, tuple(raw(x) for x in start), iterations, stop_early)]


def mjx_single_iteration(
    tree: Tree,
    mass: Matrix,
    smooth: list[Value],
    rows: Constraints,
    references: list[Value],
    warm: list[Value],
) -> list[Value]:
    """Take the single iteration of MJX's Newton solver, with the model's number of line search iterations.

    It starts from ``warm`` or from the unconstrained accelerations, whichever has the lower cost.
    """
    option = tree.model.opt
    free = Factor(tree, mass).solve(smooth)

    def from_point(x: list[Value]) -> tuple[list[Value], list[Value], Value]:
        """Return residuals, M x and cost."""
        residual, mass_times_x = minus(rows.jacobian_product(x), references), multiply(tree, mass, x)
        gauss = 0.5 * inner(tree, minus(mass_times_x, smooth), minus(x, free))
        costs = [where(raw(r) < 0, 0.5 * d * r * r, 0.0) for d, r in zip(rows.weights, residual, strict=True)]
        return residual, mass_times_x, gauss + sum_over_lanes(costs, rows.lanes)

    from_warm, from_free = from_point(warm), from_point(free)
    warmer = raw(from_warm[2]) < raw(from_free[2])

    def chosen(a: list[Value], b: list[Value]) -> list[Value]:
        return [where(warmer, x, y) for x, y in zip(a, b, strict=True)]

    x = chosen(warm, free)
    residual, mass_times_x = chosen(from_warm[0], from_free[0]), chosen(from_warm[1], from_free[1])
    search = _newton_search(tree, mass, smooth, rows, residual, mass_times_x)
    trace = inner(tree, [mass[i][i] for i in range(len(mass))], [1.0] * len(mass))
    length = apply(jnp.sqrt, inner(tree, search.direction, search.direction))
    small = float(option.tolerance * option.ls_tolerance) * (length * trace)
    step = mjx_step_length(search, small, int(option.ls_iterations))
    return [a + step * b for a, b in zip(x, search.direction, strict=True)]


def _newton_search(
    tree: Tree,
    mass: Matrix,
    smooth: list[Value],
    rows: Constraints,
    residual: list[Value],
    mass_times_x: list[Value],
) -> Search:
    """Return the line search along Newton's direction at the point with these ``residual`` and M x."""
    weights = [where(raw(r) < 0, d, 0.0) for r, d in zip(residual, rows.weights, strict=True)]
    smooth_gradient = minus(mass_times_x, smooth)
    gradient = plus(
        smooth_gradient, rows.transposed_product([d * r for d, r in zip(weights, residual, strict=True)])
    )
    direction = times(-1.0, Factor(tree, rows.add_stiffness(mass, weights)).solve(gradient))
    return Search(tree, mass, rows, residual, smooth_gradient, direction)
