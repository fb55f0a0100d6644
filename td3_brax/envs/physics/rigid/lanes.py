"""Arithmetic on numbers that are arrays over environments, in which constants cost nothing.

A value is a float that is known while the program is traced, or a :class:`Number`. Products with 0 or 1, sums
with 0 and the like are removed. So code for a general rotation or mass matrix shrinks to the operations that
the robot needs. Parts of the same structure, such as four legs, share a number: they are its lanes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias, Union

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.envs.physics.rigid.compute_once import MAX_REPEATED, compute_once

MAX_UNROLLED_LANES = 8
"""Up to this number, lanes are added one by one. More are summed by XLA."""

Value: TypeAlias = Union[float, "Number"]
Vector: TypeAlias = list[Value]
Matrix: TypeAlias = list[list[Value]]


class Number:
    """An array [lanes or 1, N] over N environments, or a constant [lanes, 1] that differs between lanes."""

    __slots__ = ("cost", "x")
    __array_ufunc__ = None  # so that NumPy's floats leave arithmetic to Number

    def __init__(self, x: Any, cost: int = 0) -> None:
        if cost > MAX_REPEATED and isinstance(x, jax.Array):
            x, cost = compute_once(x), 0
        self.x = x
        self.cost = cost
        """Number of operations since the last value that is computed once."""

    def __add__(self, other: Value) -> Value:
        return self if is_zero(other) else _binary(self, other, lambda a, b: a + b)

    __radd__ = __add__

    def __sub__(self, other: Value) -> Value:
        if other is self:
            return 0.0
        return self if is_zero(other) else _binary(self, other, lambda a, b: a - b)

    def __rsub__(self, other: float) -> Value:
        return -self if is_zero(other) else _binary(self, other, lambda a, b: b - a)

    def __mul__(self, other: Value) -> Value:
        if not isinstance(other, Number):
            if other == 0:
                return 0.0
            if abs(other) == 1:
                return self if other == 1 else -self
        return _binary(self, other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __truediv__(self, other: Value) -> Value:
        return _binary(self, other, lambda a, b: a / b)

    def __rtruediv__(self, other: float) -> Value:
        return 0.0 if is_zero(other) else _binary(self, other, lambda a, b: b / a)

    def __neg__(self) -> Number:
        return Number(-self.x, self.cost + 1)


def is_zero(x: Value) -> bool:
    """Return whether ``x`` is known to be 0."""
    return not isinstance(x, Number) and x == 0


def raw(x: Value) -> Any:
    """Return the array or float of ``x``."""
    return x.x if isinstance(x, Number) else float(x)


def _cost(*values: Value) -> int:
    return 1 + sum(value.cost for value in values if isinstance(value, Number))


def computed_once(x: Value) -> Value:
    """Return ``x``, which XLA then computes only once."""
    return Number(compute_once(x.x)) if isinstance(x, Number) and x.cost else x


def to_value(x: Any) -> Value:
    """Return an array or float as a value."""
    return x if isinstance(x, float) else Number(x)


def constant(values: Any) -> Value:
    """Return a constant with ``values`` [lanes], a float if they are equal. Below 1e-12, they count as 0."""
    lanes = np.asarray(values, np.float64).reshape(-1)
    lanes = np.where(np.abs(lanes) < 1e-12, 0, lanes)
    if np.ptp(lanes) <= 1e-9 * np.abs(lanes).max():
        return float(lanes[0])
    return Number(lanes[:, None])


def _binary(a: Value, b: Value, op: Callable[[Any, Any], Any]) -> Value:
    x, y = raw(a), raw(b)
    if isinstance(x, np.ndarray) and isinstance(y, float | np.ndarray):
        return constant(op(x, y))
    if isinstance(y, np.ndarray) and isinstance(x, float):
        return constant(op(x, y))
    if isinstance(x, np.ndarray):
        x = _as_array(x, y.dtype)
    elif isinstance(y, np.ndarray):
        y = _as_array(y, x.dtype)
    return Number(op(x, y), _cost(a, b))


_SELECTING_BY_LANE: ContextVar[bool] = ContextVar("selecting_by_lane", default=False)


@contextlib.contextmanager
def selecting_by_lane() -> Iterator[None]:
    """Select values that differ between lanes by the lane's index in this context.

    A kernel needs this: it has no constant arrays, and cannot slice lanes.
    """
    reset = _SELECTING_BY_LANE.set(True)
    try:
        yield
    finally:
        _SELECTING_BY_LANE.reset(reset)


def _as_array(x: np.ndarray, dtype: Any) -> Any:
    """Return constants [lanes, 1] as an array of ``dtype``."""
    return (
        select_by_lane([v.item() for v in x.astype(dtype)]).astype(dtype)
        if _SELECTING_BY_LANE.get()
        else x.astype(dtype)
    )


def select_by_lane(values: Sequence[Any]) -> Any:
    """Return [lanes, ...]: for each lane its entry of ``values``, which are floats or [1, ...]."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (len(values), 1), 0)
    chosen = values[0]
    for i, value in enumerate(values[1:], 1):
        chosen = jnp.where(lane == i, value, chosen)
    return chosen


def extract_lane(x: Any, i: int) -> Any:
    """Return lane ``i`` of the array ``x`` [lanes, N] as [1, N], without slicing."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0)
    return jnp.where(lane == i, x, 0.0).sum(0, keepdims=True)


def apply(op: Callable[..., Any], *values: Value) -> Value:
    """Apply the JAX function ``op`` to the arrays of ``values``."""
    arrays = [raw(v) for v in values]
    dtype = next((a.dtype for a in arrays if isinstance(a, jax.Array)), jnp.result_type(float))
    placed = (_as_array(a, dtype) if isinstance(a, np.ndarray) else a for a in arrays)
    return Number(op(*placed), _cost(*values))


def broadcast_like(x: Value, like: Value) -> Value:
    """Return ``x``, which may be a constant, broadcast to the shape of the array ``like``."""
    shape = raw(like).shape
    if isinstance(raw(x), jax.Array) and raw(x).shape == shape:
        return x
    return apply(lambda a, b: jnp.broadcast_to(a, shape).astype(b.dtype), x, like)


def where(condition: jax.Array, a: Value, b: Value) -> Value:
    """Return ``a`` where the array ``condition`` is true, else ``b``."""
    return apply(lambda x, y: jnp.where(condition, x, y), a, b)


def total(values: Sequence[Value]) -> Value:
    """Return the sum of ``values``."""
    result: Value = 0.0
    for value in values:
        result = result + value
    return result


def lanes_of(x: Value) -> int:
    """Return the number of lanes of ``x``, 1 if its lanes are equal."""
    return x.x.shape[0] if isinstance(x, Number) and np.ndim(x.x) == 2 else 1


def lane_sum(x: Value, lanes: int) -> Value:
    """Return the sum of ``x`` over ``lanes``. If they are equal, ``x`` may hold a single one."""
    if lanes == 1:
        return x
    if lanes_of(x) == 1:
        return lanes * x
    array = raw(x)
    if isinstance(array, np.ndarray):
        return float(array.sum())
    if lanes > MAX_UNROLLED_LANES or _SELECTING_BY_LANE.get():
        return Number(array.sum(0, keepdims=True))
    array = raw(computed_once(x))
    return Number(sum(array[i : i + 1] for i in range(1, lanes)) + array[:1], lanes)


def stack(values: Sequence[Value], lanes: Sequence[int]) -> Value:
    """Return one value with the lanes of all ``values``. ``lanes`` has the number of lanes of each."""
    if len(values) == 1 or all(not isinstance(v, Number) and v == values[0] for v in values):
        return values[0]
    parts = [raw(value) for value in values]
    like = next((part for part in parts if isinstance(part, jax.Array)), None)
    if like is None:
        pairs = zip(parts, lanes, strict=True)
        return constant(np.concatenate([np.broadcast_to(x, (n, 1)) for x, n in pairs]))
    shapes = [(n, like.shape[1]) for n in lanes]
    full = [jnp.broadcast_to(jnp.asarray(x, like.dtype), s) for x, s in zip(parts, shapes, strict=True)]
    return Number(jnp.concatenate(full))


def slice_lanes(x: Value, begin: int, end: int) -> Value:
    """Return the lanes ``begin`` to ``end - 1`` of ``x``."""
    if lanes_of(x) == 1:
        return x
    array = raw(x)
    return (
        constant(array[begin:end])
        if isinstance(array, np.ndarray)
        else Number(raw(computed_once(x))[begin:end])
    )


def dot(a: Sequence[Value], b: Sequence[Value]) -> Value:
    """Return the dot product a . b."""
    return total([x * y for x, y in zip(a, b, strict=True)])


def cross(a: Sequence[Value], b: Sequence[Value]) -> Vector:
    """Return the cross product a x b."""
    return [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]


def plus(a: Sequence[Value], b: Sequence[Value]) -> Vector:
    """Return a + b."""
    return [x + y for x, y in zip(a, b, strict=True)]


def minus(a: Sequence[Value], b: Sequence[Value]) -> Vector:
    """Return a - b."""
    return [x - y for x, y in zip(a, b, strict=True)]


def times(s: Value, a: Sequence[Value]) -> Vector:
    """Return the vector ``a`` times the scalar ``s``."""
    return [s * x for x in a]


def column(a: Matrix, j: int) -> Vector:
    """Return column ``j`` of ``a``."""
    return [row[j] for row in a]


def rotate(a: Matrix, x: Sequence[Value]) -> Vector:
    """Return the product of the matrix ``a`` and the vector ``x``."""
    return [dot(row, x) for row in a]


def matmul(a: Matrix, b: Matrix) -> Matrix:
    """Return the product of the matrices ``a`` and ``b`` [3][3]."""
    return [[dot(row, column(b, j)) for j in range(3)] for row in a]
