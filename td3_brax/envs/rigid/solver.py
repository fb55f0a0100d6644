"""Accelerations under soft constraints: sparse factors, MJX's one iteration, Newton's method.

What is minimised is 1/2 (x - x0)' M (x - x0) + 1/2 sum of D min(J x - a, 0)^2 with M x0 = the smooth forces
(MuJoCo's documentation, "Computation").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.envs.rigid.constraints import Constraints
from td3_brax.envs.rigid.lanes import (
    Matrix,
    Number,
    Value,
    apply,
    dot,
    is_zero,
    lane_sum,
    minus,
    number,
    plus,
    raw,
    times,
    total,
    where,
)
from td3_brax.envs.rigid.tree import Tree

MIN_VALUE = 1e-15


class Factor:
    """M = L' D L of a matrix with a tree's zeros, eliminated from the leaves to the root."""

    def __init__(self, tree: Tree, matrix: Matrix) -> None:
        self._lanes = [len(places) for places in tree.qvel]
        rows = [list(row) for row in matrix]
        self._inverse: list[Value] = [0.0] * len(rows)
        for i in reversed(range(len(rows))):
            self._inverse[i] = 1.0 / rows[i][i]
            row, scaled = rows[i], [x * self._inverse[i] for x in rows[i][:i]]
            for j in range(i):
                for k in range(j + 1):
                    if not (is_zero(scaled[j]) or is_zero(row[k])):
                        rows[j][k] = rows[j][k] - self._up(i, j, scaled[j] * row[k])
            rows[i][:i] = scaled
        self._rows = rows

    def _up(self, i: int, j: int, x: Value) -> Value:
        """What all lanes of ``i`` that share ``j`` add up to."""
        return lane_sum(x, self._lanes[i] if self._lanes[j] == 1 else 1)

    def solve(self, b: list[Value]) -> list[Value]:
        """x of M x = b."""
        x, n = list(b), len(b)
        for i in reversed(range(n)):
            for j in range(i):
                if not is_zero(self._rows[i][j]):
                    x[j] = x[j] - self._up(i, j, self._rows[i][j] * x[i])
        x = [a * d for a, d in zip(x, self._inverse, strict=True)]
        for i in range(n):
            x[i] = x[i] - dot(self._rows[i][:i], x[:i])
        return x


def multiply(tree: Tree, mass: Matrix, x: list[Value]) -> list[Value]:
    """M x, of which the lower half is given."""
    found = [dot(mass[i][: i + 1], x[: i + 1]) for i in range(len(x))]
    for i in range(len(x)):
        for j in range(i):
            if not is_zero(mass[i][j]):
                lanes = len(tree.qvel[i]) if len(tree.qvel[j]) == 1 else 1
                found[j] = found[j] + lane_sum(mass[i][j] * x[i], lanes)
    return found


def over_lanes(values: Sequence[Value], lanes: Sequence[int]) -> Value:
    """The sum of values with different ``lanes``."""
    sums: dict[int, Value] = {}
    for value, count in zip(values, lanes, strict=True):
        sums[count] = sums.get(count, 0.0) + value
    return total([lane_sum(value, count) for count, value in sums.items()])


class Search:
    """The cost along a direction: quadratic between changes of the active rows.

    Args:
        slope: of the smooth part at the start.
        curvature: of the smooth part.
    """

    def __init__(
        self, rows: Constraints, residual: list[Value], change: list[Value], slope: Value, curvature: Value
    ) -> None:
        self._rows, self._residual, self._change = rows, residual, change
        self._slope, self._curvature = slope, curvature
        weights = rows.weights
        self._constant = [0.5 * d * r * r for d, r in zip(weights, residual, strict=True)]
        self._linear = [d * r * c for d, r, c in zip(weights, residual, change, strict=True)]
        self._square = [0.5 * d * c * c for d, c in zip(weights, change, strict=True)]

    def at(self, step: Value) -> tuple[Value, Value, Value]:
        """Cost, less the smooth part's at the start, and its first and second derivative."""
        active = [raw(r + step * c) < 0 for r, c in zip(self._residual, self._change, strict=True)]

        def summed(parts: list[Value]) -> Value:
            pushing = [where(a, p, 0.0) for a, p in zip(active, parts, strict=True)]
            return over_lanes(pushing, self._rows.lanes)

        constant = summed(self._constant)
        linear = summed(self._linear) + self._slope
        square = summed(self._square) + 0.5 * self._curvature
        cost = constant + step * (linear + step * square)
        return cost, linear + 2.0 * (step * square), 2.0 * square


def newtons(
    tree: Tree,
    mass: Matrix,
    smooth: list[Value],
    rows: Constraints,
    references: list[Value],
    start: list[Value],
    iterations: int,
    line_search: int,
) -> list[Value]:
    """Newton's method from ``start``, each step found by Newton's method between bounds."""

    def iteration(_: Any, carry: Any) -> Any:
        x = [number(a) for a in carry]
        residual = minus(rows.along(x), references)
        weights = [where(raw(r) < 0, d, 0.0) for r, d in zip(residual, rows.weights, strict=True)]
        uphill = minus(multiply(tree, mass, x), smooth)
        push = rows.push([d * r for d, r in zip(weights, residual, strict=True)])
        factor = Factor(tree, rows.stiffen(mass, weights))
        direction = times(-1.0, factor.solve(plus(uphill, push)))
        slope = over_lanes([a * b for a, b in zip(direction, uphill, strict=True)], _lanes(tree))
        heavy = multiply(tree, mass, direction)
        curvature = over_lanes([a * b for a, b in zip(direction, heavy, strict=True)], _lanes(tree))
        search = Search(rows, residual, rows.along(direction), slope, curvature)

        def narrow(_: Any, carry: Any) -> Any:
            along, low, high = carry
            _, first, second = (raw(x) for x in search.at(number(along)))
            low, high = jnp.where(first < 0, along, low), jnp.where(first < 0, high, along)
            step = along - first / jnp.maximum(second, MIN_VALUE)
            inside = (step > low) & (step < high)
            half = jnp.where(high >= jnp.inf, 2 * along, 0.5 * (low + high))
            return jnp.where(inside, step, jnp.where(first == 0, along, half)), low, high

        one = jnp.ones_like(raw(curvature))
        step = Number(jax.lax.fori_loop(0, line_search, narrow, (one, 0 * one, jnp.inf * one))[0])
        return tuple(raw(a + step * b) for a, b in zip(x, direction, strict=True))

    return [number(a) for a in jax.lax.fori_loop(0, iterations, iteration, tuple(raw(x) for x in start))]


def _lanes(tree: Tree) -> list[int]:
    return [len(places) for places in tree.qvel]


def once(
    tree: Tree,
    mass: Matrix,
    smooth: list[Value],
    rows: Constraints,
    references: list[Value],
    warm: list[Value],
) -> list[Value]:
    """The one iteration of MJX's Newton solver, from the better of ``warm`` and unconstrained accelerations.

    Its line search, of the model's own number of iterations, keeps a bracket of two points, and takes the
    better of them if that is better than no step at all.
    """
    option, lanes = tree.model.opt, _lanes(tree)
    free = Factor(tree, mass).solve(smooth)

    def from_point(x: list[Value]) -> tuple[list[Value], list[Value], Value, Value]:
        """Residuals, M x, cost, and the smooth part of it."""
        residual, heavy = minus(rows.along(x), references), multiply(tree, mass, x)
        gauss = 0.5 * over_lanes(
            [a * b for a, b in zip(minus(heavy, smooth), minus(x, free), strict=True)], lanes
        )
        costs = [where(raw(r) < 0, 0.5 * d * r * r, 0.0) for d, r in zip(rows.weights, residual, strict=True)]
        return residual, heavy, gauss + over_lanes(costs, rows.lanes), gauss

    from_warm, from_free = from_point(warm), from_point(free)
    warmer = raw(from_warm[2]) < raw(from_free[2])

    def chosen(a: list[Value], b: list[Value]) -> list[Value]:
        return [where(warmer, x, y) for x, y in zip(a, b, strict=True)]

    x = chosen(warm, free)
    residual, heavy = chosen(from_warm[0], from_free[0]), chosen(from_warm[1], from_free[1])
    weights = [where(raw(r) < 0, d, 0.0) for r, d in zip(residual, rows.weights, strict=True)]
    uphill = minus(heavy, smooth)
    gradient = plus(uphill, rows.push([d * r for d, r in zip(weights, residual, strict=True)]))
    direction = times(-1.0, Factor(tree, rows.stiffen(mass, weights)).solve(gradient))

    along = multiply(tree, mass, direction)
    slope = over_lanes([a * b for a, b in zip(direction, uphill, strict=True)], lanes)
    curvature = over_lanes([a * b for a, b in zip(direction, along, strict=True)], lanes)
    search = Search(rows, residual, rows.along(direction), slope, curvature)

    trace = over_lanes([mass[i][i] for i in range(len(mass))], lanes)
    length = apply(jnp.sqrt, over_lanes([a * a for a in direction], lanes))
    small = float(option.tolerance * option.ls_tolerance) * (length * trace)

    def point(step: Any) -> tuple[Any, Any, Any, Any]:
        cost, first, second = search.at(number(step))
        return step, raw(cost), raw(first), raw(second) + MIN_VALUE * (raw(second) == 0)

    zero = jnp.zeros_like(raw(curvature))
    begin = point(zero)
    rows_cost = jnp.maximum(begin[1], 0)
    rows_curve = jnp.maximum(0.5 * begin[3] - 0.5 * raw(curvature), 0)
    size = 2 * jnp.sqrt(rows_cost * rows_curve) + jnp.abs(raw(slope))
    enough = jnp.maximum(raw(small), 8 * jnp.finfo(zero.dtype).eps * size)

    def good(at: Any) -> Any:
        return (jnp.abs(at[2]) < enough) & (at[1] < begin[1])

    def pick(condition: Any, a: Any, b: Any) -> Any:
        return tuple(jnp.where(condition, p, q) for p, q in zip(a, b, strict=True))

    def closer(a: Any, b: Any) -> Any:
        """Whether the derivative at ``b`` has the sign of that at ``a`` and is smaller."""
        return ((a[2] < b[2]) & (b[2] < 0)) | ((a[2] > b[2]) & (b[2] > 0))

    def narrow(_: Any, carry: Any) -> Any:
        low, high, going = carry
        after_low, after_high = point(low[0] - low[2] / low[3]), point(high[0] - high[2] / high[3])
        middle = point(0.5 * (low[0] + high[0]))
        new_low, new_high, moved = low, high, low[0] != low[0]
        for candidate in (after_low, middle, after_high):
            better = closer(new_low, candidate)
            new_low, moved = pick(better, candidate, new_low), moved | better
        crossed = (high[2] < 0) & (after_high[2] > 0)
        for candidate in (after_high, middle, after_low):
            better = closer(new_high, candidate) | (crossed if candidate is after_high else False)
            new_high, moved = pick(better, candidate, new_high), moved | better
        best, found = after_low, good(after_low)
        for candidate in (after_high, middle):
            better = good(candidate) & (~found | (candidate[1] < best[1]))
            best, found = pick(better, candidate, best), found | good(candidate)
        new_low, new_high = pick(found, best, new_low), pick(found, best, new_high)
        still = going & moved & ~found & ~good(new_low) & ~good(new_high)
        return pick(going, new_low, low), pick(going, new_high, high), still

    first = point(begin[0] - begin[2] / begin[3])
    ahead = first[2] < begin[2]
    low, high = pick(ahead, first, begin), pick(ahead, begin, first)
    going = ~good(low) & ~good(high)
    low, high, _ = jax.lax.fori_loop(0, int(option.ls_iterations), narrow, (low, high, going))
    improved = (low[1] < begin[1]) | (high[1] < begin[1])
    step = Number(jnp.where(improved, jnp.where(low[1] < high[1], low[0], high[0]), 0))
    return [a + step * b for a, b in zip(x, direction, strict=True)]
