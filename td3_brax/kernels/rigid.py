"""Time steps of many robots in one GPU kernel: each robot has one thread and keeps its numbers in registers.

XLA alone splits a step into hundreds of kernels, because each loop, such as the iterations of a solver, ends
a kernel. A GPU then spends its time on launching them, for few robots and for many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

THREADS = 32
"""Threads of a block: one warp, so that even a few robots occupy many of the GPU's multiprocessors."""

Numbers = Sequence[jax.Array]


def in_threads(
    function: Callable[[Numbers], Numbers], x: jax.Array, outputs: int, interpret: bool = False
) -> jax.Array:
    """Apply ``function`` to the columns of ``x`` [N, inputs], one thread per row; return [N, outputs].

    Args:
        function: takes and returns arrays [1, 32], one per column. It may use only arithmetic, sums over
            lanes, ``where`` and loops of known length.
        outputs: number of arrays that ``function`` returns.
        interpret: run the kernel by XLA, on any device.
    """
    count, inputs = x.shape
    blocks = -(-count // THREADS)
    padded = jnp.pad(x, ((0, blocks * THREADS - count), (0, 0)), mode="edge")

    def kernel(source: Any, target: Any) -> None:
        # Read in one loop and write in another. Each statement that reads or writes costs Triton a compile
        # time quadratic in the length of the code.
        def read(i: jax.Array, numbers: Any) -> Any:
            return *numbers[1:], source[:, i].reshape(1, THREADS)

        def write(i: jax.Array, numbers: Any) -> Any:
            target[:, i] = numbers[0].reshape(THREADS)
            return *numbers[1:], numbers[0]

        zeros = jnp.zeros((1, THREADS), x.dtype)
        results = function(jax.lax.fori_loop(0, inputs, read, (zeros,) * inputs))
        jax.lax.fori_loop(0, outputs, write, tuple(results))

    # Ask for Triton: it supports more GPUs than Pallas's default backend.
    backend: dict[str, Any] = {"compiler_params": triton.CompilerParams(num_warps=1, num_stages=1)}
    out = pl.pallas_call(
        kernel,
        grid=(blocks,),
        in_specs=[pl.BlockSpec((THREADS, inputs), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((THREADS, outputs), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((blocks * THREADS, outputs), x.dtype),
        **({"interpret": True} if interpret else backend),
    )(padded)
    return out[:count]
