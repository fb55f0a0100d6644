"""Accelerations under soft constraints: MJX's one iteration, Newton's method.

What is minimised is 1/2 (x - x0)' M (x - x0) + 1/2 sum of D min(J x - a, 0)^2 with M x0 = the smooth forces
(MuJoCo's documentation, "Computation").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.envs.physics.rigid.constraints import Constraints
from td3_brax.envs.physics.rigid.factor import Factor, inner, multiply, over_lanes
from td3_brax.envs.physics.rigid.lanes import Matrix, Value, apply, minus, number, plus, raw, times, where
from td3_brax.envs.physics.rigid.search import Search, between_bounds, of_two_points
from td3_brax.envs.physics.rigid.tree import Tree


def _repeat(body: Callable[[Any], Any], start: Any, count: int, early: bool) -> Any:
    """``body`` ``count`` times.

    Args:
        body: of what is carried: that after it, and which robots [1, N] are not done with it.
        early: whether to stop when no robot is left; one that is done stays as it is.
    """
    if not early:
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


def newtons(
    tree: Tree,
    mass: Matrix,
    smooth: list[Value],
    rows: Constraints,
    references: list[Value],
    start: list[Value],
    iterations: int,
    line_search: int,
    early: bool,
) -> list[Value]:
    """Newton's method from ``start``, each step found by Newton's method between bounds. Between changes of
    the rows that push the cost is quadratic, so that a step without one is the last."""

    def iteration(carry: Any) -> Any:
        x = [number(a) for a in carry]
        residual = minus(rows.along(x), references)
        search = _ahead(tree, mass, smooth, rows, residual, multiply(tree, mass, x))
        step = between_bounds(search, line_search)
        after = tuple(raw(a + step * b) for a, b in zip(x, search.direction, strict=True))
        return after, search.turned(step)

    return [number(a) for a in _repeat(iteration, tuple(raw(x) for x in start), iterations, early)]


def once(
    tree: Tree,
    mass: Matrix,
    smooth: list[Value],
    rows: Constraints,
    references: list[Value],
    warm: list[Value],
) -> list[Value]:
    """The one iteration of MJX's Newton solver, from the better of ``warm`` and unconstrained accelerations,
    with the model's own number of iterations of its line search."""
    option = tree.model.opt
    free = Factor(tree, mass).solve(smooth)

    def from_point(x: list[Value]) -> tuple[list[Value], list[Value], Value]:
        """Residuals, M x, cost."""
        residual, heavy = minus(rows.along(x), references), multiply(tree, mass, x)
        gauss = 0.5 * inner(tree, minus(heavy, smooth), minus(x, free))
        costs = [where(raw(r) < 0, 0.5 * d * r * r, 0.0) for d, r in zip(rows.weights, residual, strict=True)]
        return residual, heavy, gauss + over_lanes(costs, rows.lanes)

    from_warm, from_free = from_point(warm), from_point(free)
    warmer = raw(from_warm[2]) < raw(from_free[2])

    def chosen(a: list[Value], b: list[Value]) -> list[Value]:
        return [where(warmer, x, y) for x, y in zip(a, b, strict=True)]

    x = chosen(warm, free)
    residual, heavy = chosen(from_warm[0], from_free[0]), chosen(from_warm[1], from_free[1])
    search = _ahead(tree, mass, smooth, rows, residual, heavy)
    trace = inner(tree, [mass[i][i] for i in range(len(mass))], [1.0] * len(mass))
    length = apply(jnp.sqrt, inner(tree, search.direction, search.direction))
    small = float(option.tolerance * option.ls_tolerance) * (length * trace)
    step = of_two_points(search, small, int(option.ls_iterations))
    return [a + step * b for a, b in zip(x, search.direction, strict=True)]


def _ahead(
    tree: Tree,
    mass: Matrix,
    smooth: list[Value],
    rows: Constraints,
    residual: list[Value],
    heavy: list[Value],
) -> Search:
    """Along Newton's direction from where M x is ``heavy`` and the rows have ``residual``."""
    weights = [where(raw(r) < 0, d, 0.0) for r, d in zip(residual, rows.weights, strict=True)]
    uphill = minus(heavy, smooth)
    gradient = plus(uphill, rows.push([d * r for d, r in zip(weights, residual, strict=True)]))
    direction = times(-1.0, Factor(tree, rows.stiffen(mass, weights)).solve(gradient))
    return Search(tree, mass, rows, residual, uphill, direction)
