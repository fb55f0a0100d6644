"""Line searches for the minimal cost, with a fixed number of iterations for all robots at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import mujoco

from td3_brax.envs.physics.rigid.constraints import Constraints
from td3_brax.envs.physics.rigid.factor import inner, multiply, sum_over_lanes
from td3_brax.envs.physics.rigid.lanes import Matrix, Number, Value, raw, stack, to_value, where
from td3_brax.envs.physics.rigid.tree import Tree


class Search:
    """The cost along ``direction``, which is quadratic as long as the same rows are active.

    Args:
        residual: residual of each row at the start.
        smooth_gradient: gradient of the cost's smooth part at the start.
    """

    def __init__(
        self,
        tree: Tree,
        mass: Matrix,
        rows: Constraints,
        residual: list[Value],
        smooth_gradient: list[Value],
        direction: list[Value],
    ) -> None:
        self.direction = direction
        self.slope = inner(tree, direction, smooth_gradient)
        """Slope of the smooth part at the start."""
        self.curvature = inner(tree, direction, multiply(tree, mass, direction))
        """Curvature of the smooth part."""
        change, weights, lanes = rows.jacobian_product(direction), rows.weights, rows.lanes
        if tree.merge_rows:  # as one array, since this is the innermost loop
            residual, change, weights = ([stack(x, lanes)] for x in (residual, change, weights))
            lanes = [sum(lanes)]
        self._lanes, self._residual, self._change, self._weights = lanes, residual, change, weights
        self._constant = [0.5 * d * r * r for d, r in zip(weights, residual, strict=True)]
        self._linear = [d * r * c for d, r, c in zip(weights, residual, change, strict=True)]
        self._square = [0.5 * d * c * c for d, c in zip(weights, change, strict=True)]

    def active_rows_change(self, step: Value) -> jax.Array:
        """Return [1, N]: whether a row becomes active or inactive within ``step``."""
        rows = zip(self._residual, self._change, self._weights, strict=True)
        changed = [where((raw(r) < 0) != (raw(r + step * c) < 0), d, 0.0) for r, c, d in rows]
        return jnp.asarray(raw(sum_over_lanes(changed, self._lanes)) > 0)

    def cost_and_derivatives(self, step: Value) -> tuple[Value, Value, Value]:
        """Return the cost minus the smooth part at the start, and its first and second derivatives."""
        active = [raw(r + step * c) < 0 for r, c in zip(self._residual, self._change, strict=True)]

        def summed(parts: list[Value]) -> Value:
            pushing = [where(a, p, 0.0) for a, p in zip(active, parts, strict=True)]
            return sum_over_lanes(pushing, self._lanes)

        constant = summed(self._constant)
        linear = summed(self._linear) + self.slope
        square = summed(self._square) + 0.5 * self.curvature
        cost = constant + step * (linear + step * square)
        return cost, linear + 2.0 * (step * square), 2.0 * square


def bounded_newton_step(search: Search, iterations: int) -> Number:
    """Return the step length found by Newton's method, with bisection if a step leaves the known bounds."""

    def narrow(_: Any, carry: Any) -> Any:
        along, low, high = carry
        _, first, second = (raw(x) for x in search.cost_and_derivatives(to_value(along)))
        low, high = jnp.where(first < 0, along, low), jnp.where(first < 0, high, along)
        step = along - first / jnp.maximum(second, mujoco.mjMINVAL)
        inside = (step > low) & (step < high)
        half = jnp.where(high >= jnp.inf, 2 * along, 0.5 * (low + high))
        return jnp.where(inside, step, jnp.where(first == 0, along, half)), low, high

    one = jnp.ones_like(raw(search.curvature))
    return Number(jax.lax.fori_loop(0, iterations, narrow, (one, 0 * one, jnp.inf * one))[0])


def mjx_step_length(search: Search, small: Value, iterations: int) -> Number:
    """Return the step length of MJX's line search.

    The search keeps a bracket of two points, and returns the better of them, or 0 if neither reduces the
    cost. It ends at a derivative below ``small``.
    """

    def point(step: Any) -> tuple[Any, Any, Any, Any]:
        cost, first, second = search.cost_and_derivatives(to_value(step))
        return step, raw(cost), raw(first), raw(second) + mujoco.mjMINVAL * (raw(second) == 0)

    zero = jnp.zeros_like(raw(search.curvature))
    begin = point(zero)
    rows_cost = jnp.maximum(begin[1], 0)
    rows_curve = jnp.maximum(0.5 * begin[3] - 0.5 * raw(search.curvature), 0)
    size = 2 * jnp.sqrt(rows_cost * rows_curve) + jnp.abs(raw(search.slope))
    enough = jnp.maximum(raw(small), 8 * jnp.finfo(zero.dtype).eps * size)

    def good(at: Any) -> Any:
        return (jnp.abs(at[2]) < enough) & (at[1] < begin[1])

    def pick(condition: Any, a: Any, b: Any) -> Any:
        return tuple(jnp.where(condition, p, q) for p, q in zip(a, b, strict=True))

    def closer(a: Any, b: Any) -> Any:
        """Return whether the derivative at ``b`` has the same sign as at ``a`` and is smaller."""
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
    low, high, _ = jax.lax.fori_loop(0, iterations, narrow, (low, high, going))
    improved = (low[1] < begin[1]) | (high[1] < begin[1])
    return Number(jnp.where(improved, jnp.where(low[1] < high[1], low[0], high[0]), 0))
