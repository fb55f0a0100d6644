"""Keep XLA on a CPU from computing the same value many times.

On a CPU, XLA fuses a chain of arithmetic into one loop, and repeats the operations that several loops need.
This is right for a few operations. But almost everything depends on a robot's kinematics: XLA would compute
them thousands of times and compile for minutes. XLA never repeats a division. So on a CPU, a value that took
some operations is divided by a one that the compiler does not know to be one. (Optimisation barriers are
removed before XLA forms its loops, and its option to merge loops crashes on some programs.) On a GPU, XLA
weighs the cost of repeating by itself.
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
"""Largest number of operations that XLA may repeat."""
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
    """Make :func:`compute_once` effective inside. ``x`` is any float array among the program's inputs."""
    largest = jnp.finfo(x.dtype).max
    reset = _ONE.set(jnp.where(x.ravel()[0] == largest, largest, 1).astype(x.dtype))
    try:
        yield
    finally:
        _ONE.reset(reset)


def compute_once(x: Any) -> Any:
    """Return ``x``. Inside :func:`computing_once`, XLA computes it only once."""
    one = _ONE.get(None)
    return x if one is None else compute_once_p.bind(x, one)
