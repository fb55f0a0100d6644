"""Cholesky factors and triangular solves on a CPU with JAX before 0.11.2, whose own may wait for ever.

There LAPACK's kernels split a large batch into tasks for XLA's thread pool and wait for them on a thread of
that same pool. As many of these kernels at once as there are threads, such as one on each of two devices
with two cores, and no thread is left for the tasks. Small batches they take in place: those stay with them.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import mlir

IN_PLACE = 36_000, 500_000
"""LAPACK's kernels were seen to take batches of B matrices [n, n] in place up to these B n^2 and B n^3."""


def factor(a: jax.Array) -> jax.Array:
    """Lower Cholesky factors of positive definite ``a`` [..., n, n], column by column; NaN for others."""
    n = a.shape[-1]
    rows = jnp.arange(n)
    columns = []
    for i in range(n):
        column = jnp.where(rows >= i, a[..., i] * jax.lax.rsqrt(a[..., i, i])[..., None], 0)
        columns.append(column)
        a = a - column[..., :, None] * column[..., None, :]
    return jnp.stack(columns, axis=-1)


def needed() -> bool:
    """Whether this JAX is one of those."""
    return tuple(map(int, re.findall(r"\d+", jax.__version__)[:3])) < (0, 11, 2)


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether LAPACK takes matrices [..., n, n] of this shape in place."""
    *batch, n, _ = shape
    count = math.prod(batch)
    return count * n**2 <= IN_PLACE[0] and count * n**3 <= IN_PLACE[1]


def install() -> None:
    """Take large batches on a CPU without LAPACK, in all programs compiled from now on.

    Factors are :func:`factor`'s, solves XLA's own.
    """
    if not needed():
        return
    from jax._src.lax import linalg

    ours = mlir.lower_fun(factor, multiple_results=False)

    def lower_factor(ctx: Any, operand: Any) -> Any:
        return (linalg._cholesky_cpu_lowering if is_small(ctx.avals_in[0].shape) else ours)(ctx, operand)

    def lower_solve(ctx: Any, a: Any, b: Any, **how: Any) -> Any:
        small = is_small(ctx.avals_in[0].shape)
        xlas = linalg._triangular_solve_lowering
        return (linalg._triangular_solve_cpu_lower if small else xlas)(ctx, a, b, **how)

    mlir.register_lowering(linalg.cholesky_p, lower_factor, platform="cpu")
    mlir.register_lowering(linalg.triangular_solve_p, lower_solve, platform="cpu")
