"""Time steps of many robots as one kernel of a GPU: each robot has a thread, its numbers are in registers.

Compiled by XLA alone, a step's arithmetic is cut into hundreds of kernels, since loops, such as a solver's
iterations, end one; a GPU then waits for their launches whatever the number of robots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

THREADS = 32
"""A warp: few robots fill many of a GPU's processors."""

Numbers = Sequence[jax.Array]


def in_threads(
    function: Callable[[Numbers], Numbers], x: jax.Array, outputs: int, interpret: bool = False
) -> jax.Array:
    """[N, outputs] what ``function`` makes of the columns of ``x`` [N, inputs], each row in a thread.

    Args:
        function: of numbers [1, 32]; arithmetic, sums over lanes, choices and loops of known length alone.
        interpret: run by XLA instead, on any device.
    """
    count, inputs = x.shape
    blocks = -(-count // THREADS)
    padded = jnp.pad(x, ((0, blocks * THREADS - count), (0, 0)), mode="edge")

    def kernel(source: Any, target: Any) -> None:
        # One place in the code reads and one writes, each in a loop: Triton takes time squared in the length
        # of the code for each such place.
        def read(i: jax.Array, numbers: Any) -> Any:
            return *numbers[1:], source[:, i].reshape(1, THREADS)

        def write(i: jax.Array, numbers: Any) -> Any:
            target[:, i] = numbers[0].reshape(THREADS)
            return *numbers[1:], numbers[0]

        nothing = jnp.zeros((1, THREADS), x.dtype)
        made = function(jax.lax.fori_loop(0, inputs, read, (nothing,) * inputs))
        jax.lax.fori_loop(0, outputs, write, tuple(made))

    # Triton by name: it has more kinds of GPUs than what Pallas would take.
    how: dict[str, Any] = {"compiler_params": triton.CompilerParams(num_warps=1, num_stages=1)}
    out = pl.pallas_call(
        kernel,
        grid=(blocks,),
        in_specs=[pl.BlockSpec((THREADS, inputs), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((THREADS, outputs), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((blocks * THREADS, outputs), x.dtype),
        **({"interpret": True} if interpret else how),
    )(padded)
    return out[:count]
