"""Arithmetic on numbers that are arrays over environments, in which what is constant costs nothing.

A value is a float, known while the program is traced, or a :class:`Number`. Products with 0 and 1, sums with
0 and the like vanish, so that code written for a general rotation or mass matrix becomes that of the robot at
hand. Several alike parts of a robot, such as four legs, share a number: they are its lanes.
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
"""Lanes that are added one by one; more are left to XLA's sums."""

Value: TypeAlias = Union[float, "Number"]
Vector: TypeAlias = list[Value]
Matrix: TypeAlias = list[list[Value]]


class Number:
    """An array [lanes or 1, N] over environments, or a constant that differs between lanes [lanes, 1]."""

    __slots__ = ("cost", "x")
    __array_ufunc__ = None  # NumPy's floats leave arithmetic with a Number to it

    def __init__(self, x: Any, cost: int = 0) -> None:
        if cost > MAX_REPEATED and isinstance(x, jax.Array):
            x, cost = compute_once(x), 0
        self.x = x
        self.cost = cost
        """Operations that made it since a value was last held."""

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
    """Whether ``x`` is known to be 0."""
    return not isinstance(x, Number) and x == 0


def raw(x: Value) -> Any:
    """The array or float."""
    return x.x if isinstance(x, Number) else float(x)


def _cost(*values: Value) -> int:
    return 1 + sum(value.cost for value in values if isinstance(value, Number))


def computed_once(x: Value) -> Value:
    """``x``, computed once."""
    return Number(compute_once(x.x)) if isinstance(x, Number) and x.cost else x


def to_value(x: Any) -> Value:
    """A value of an array or float."""
    return x if isinstance(x, float) else Number(x)


def constant(values: Any) -> Value:
    """A constant with one value [lanes] for each lane; 1e-12 counts as nothing."""
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
    """While this is open, what differs between lanes is chosen by the lane's number: a kernel has no constant
    arrays, and takes no lanes apart."""
    reset = _SELECTING_BY_LANE.set(True)
    try:
        yield
    finally:
        _SELECTING_BY_LANE.reset(reset)


def _as_array(x: np.ndarray, dtype: Any) -> Any:
    """Constants [lanes, 1] as an array of ``dtype``."""
    return (
        select_by_lane([v.item() for v in x.astype(dtype)]).astype(dtype)
        if _SELECTING_BY_LANE.get()
        else x.astype(dtype)
    )


def select_by_lane(values: Sequence[Any]) -> Any:
    """[lanes, ...] the values, each [1, ...] or a float, chosen by the lane's number."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (len(values), 1), 0)
    chosen = values[0]
    for i, value in enumerate(values[1:], 1):
        chosen = jnp.where(lane == i, value, chosen)
    return chosen


def extract_lane(x: Any, i: int) -> Any:
    """[1, N] one lane of an array [lanes, N], by the lane's number."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0)
    return jnp.where(lane == i, x, 0.0).sum(0, keepdims=True)


def apply(op: Callable[..., Any], *values: Value) -> Value:
    """``op`` of JAX's on arrays."""
    arrays = [raw(v) for v in values]
    dtype = next((a.dtype for a in arrays if isinstance(a, jax.Array)), jnp.result_type(float))
    placed = (_as_array(a, dtype) if isinstance(a, np.ndarray) else a for a in arrays)
    return Number(op(*placed), _cost(*values))


def broadcast_like(x: Value, like: Value) -> Value:
    """``x``, which may be a constant, with the shape of the array ``like``."""
    shape = raw(like).shape
    if isinstance(raw(x), jax.Array) and raw(x).shape == shape:
        return x
    return apply(lambda a, b: jnp.broadcast_to(a, shape).astype(b.dtype), x, like)


def where(condition: jax.Array, a: Value, b: Value) -> Value:
    """``a`` where the array ``condition``, else ``b``."""
    return apply(lambda x, y: jnp.where(condition, x, y), a, b)


def total(values: Sequence[Value]) -> Value:
    """Their sum."""
    result: Value = 0.0
    for value in values:
        result = result + value
    return result


def lanes_of(x: Value) -> int:
    """How many lanes ``x`` has."""
    return x.x.shape[0] if isinstance(x, Number) and np.ndim(x.x) == 2 else 1


def lane_sum(x: Value, lanes: int) -> Value:
    """The sum over ``lanes`` that ``x`` has, or would have if they differed."""
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
    """Values that have ``lanes``, or would have if they differed, as one that has all of them."""
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
    """The lanes of ``x`` from ``begin`` to before ``end``."""
    if lanes_of(x) == 1:
        return x
    array = raw(x)
    return (
        constant(array[begin:end])
        if isinstance(array, np.ndarray)
        else Number(raw(computed_once(x))[begin:end])
    )


def dot(a: Sequence[Value], b: Sequence[Value]) -> Value:
    """a . b."""
    return total([x * y for x, y in zip(a, b, strict=True)])


def cross(a: Sequence[Value], b: Sequence[Value]) -> Vector:
    """a x b."""
    return [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]


def plus(a: Sequence[Value], b: Sequence[Value]) -> Vector:
    """a + b."""
    return [x + y for x, y in zip(a, b, strict=True)]


def minus(a: Sequence[Value], b: Sequence[Value]) -> Vector:
    """a - b."""
    return [x - y for x, y in zip(a, b, strict=True)]


def times(s: Value, a: Sequence[Value]) -> Vector:
    """s a."""
    return [s * x for x in a]


def column(a: Matrix, j: int) -> Vector:
    """Column j."""
    return [row[j] for row in a]


def rotate(a: Matrix, x: Sequence[Value]) -> Vector:
    """a x."""
    return [dot(row, x) for row in a]


def matmul(a: Matrix, b: Matrix) -> Matrix:
    """a b."""
    return [[dot(row, column(b, j)) for j in range(3)] for row in a]
