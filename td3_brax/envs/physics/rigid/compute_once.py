"""Where XLA must stop computing the same thing again.

XLA on a CPU makes one loop of a chain of arithmetic, and repeats in each loop what several need. That is
right for a few operations; a robot's kinematics, which everything else needs, would be computed thousands of
times, and compile for minutes. What it never repeats is a division: so on a CPU a value that took some
arithmetic is divided by a one that the compiler does not know to be one. (Barriers of optimisation are gone
before loops are made, and asked to merge loops XLA breaks off on some programs.) On a GPU it weighs what
repeating costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

MAX_REPEATED = 8
"""Operations that may be repeated."""
_ONE: ContextVar[jax.Array] = ContextVar("one")

compute_once_p = Primitive("compute_once")
compute_once_p.def_abstract_eval(lambda x, one: x)
compute_once_p.def_impl(lambda x, one: x)
mlir.register_lowering(compute_once_p, mlir.lower_fun(lambda x, one: x, multiple_results=False))
mlir.register_lowering(
    compute_once_p, mlir.lower_fun(lambda x, one: x / one, multiple_results=False), platform="cpu"
)


@contextlib.contextmanager
def computing_once(x: jax.Array) -> Iterator[None]:
    """While this is open, values are held; ``x`` is any array of floats that the program is given."""
    largest = jnp.finfo(x.dtype).max
    reset = _ONE.set(jnp.where(x.ravel()[0] == largest, largest, 1).astype(x.dtype))
    try:
        yield
    finally:
        _ONE.reset(reset)


def compute_once(x: Any) -> Any:
    """``x``, computed once."""
    one = _ONE.get(None)
    return x if one is None else compute_once_p.bind(x, one)
