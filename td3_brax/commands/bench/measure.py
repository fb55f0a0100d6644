"""Time calls, and measure the limits of the device: its rates of matrix products and of copying."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.algorithm import shards
from td3_brax.config import Config

Calls = Mapping[str, Callable[[], Any]]
"""Calls to time, by name; each returns arrays to wait for."""
REPEATS = 7
"""Times that each call is measured."""
COPIED_FLOATS = 2**26
"""Size of the array whose copying is timed, in floats; it is larger than any cache."""


def medians(calls: Calls, repeats: int = REPEATS) -> dict[str, float]:
    """Return the median seconds of each call.

    The calls take turns, so that all are measured under the same load. The first turn is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if repeat:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def product_shapes(config: Config, obs: int, action: int, batch: int) -> list[tuple[int, int, int, bool]]:
    """List the matrix products of ``policy_delay`` updates.

    These are the target networks' on the batches of all updates, the critics' three for each layer in each
    update, and those of the actor's update, which goes through the first critic.

    Returns:
        For each product: rows, inner size, columns, and whether it is computed in bfloat16.
    """

    def layers(first: int, last: int) -> list[tuple[int, int]]:
        sizes = (first, *config.hidden_sizes, last)
        return list(itertools.pairwise(sizes))

    delay, twins = config.policy_delay, config.num_critics
    critic, actor = layers(obs + action, config.num_atoms), layers(obs, action)

    def forward(net: list[tuple[int, int]], rows: int) -> list[tuple[int, int, int]]:
        return [(rows, i, o) for i, o in net]

    def weights(net: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
        return [(i, batch, o) for i, o in net]

    def inputs(net: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
        return [(batch, o, i) for i, o in net]

    shapes = forward(actor, delay * batch) + twins * forward(critic, delay * batch)
    shapes += delay * twins * (forward(critic, batch) + weights(critic) + inputs(critic)[1:])
    shapes += forward(actor, batch) + weights(actor) + inputs(actor)[1:]
    shapes += forward(critic, batch) + inputs(critic)
    return [(*shape, config.compute_dtype == "bfloat16" and min(shape) >= 48) for shape in shapes]


def products(config: Config, obs: int, action: int, updates: int) -> Callable[[], Any]:
    """Make a call that runs only the matrix products of ``updates`` updates, on all devices.

    Each product is computed by the library's own routine.
    """
    shapes = product_shapes(config, obs, action, config.batch_size // config.devices)

    def operand(rows: int, columns: int, rounded: bool) -> jax.Array:
        return jnp.ones((rows, columns), jnp.bfloat16 if rounded else jnp.float32)

    operands = [(operand(m, k, rounded), operand(k, n, rounded)) for m, k, n, rounded in shapes]

    def body(carry: Any, _: None) -> tuple[Any, Any]:
        # The barriers keep the compiler from moving products out of the loop or merging them.
        carry = jax.lax.optimization_barrier(carry)
        results = [jnp.matmul(a, b, preferred_element_type=jnp.float32) for a, b in carry]
        return carry, [x[0, 0] for x in jax.lax.optimization_barrier(results)]

    def run(operands: Any) -> Any:
        return jax.lax.scan(body, operands, length=max(updates // config.policy_delay, 1))[1]

    jitted = shards.jit(run, config.devices)
    return lambda: jitted(operands)


def product_flops(config: Config, obs: int, action: int) -> float:
    """Return the floating-point operations in the matrix products of one update."""
    shapes = product_shapes(config, obs, action, config.batch_size)
    return sum(2.0 * m * k * n for m, k, n, _ in shapes) / config.policy_delay


def copying() -> Callable[[], Any]:
    """Make a call that reads and writes 256 MB."""
    held = [jnp.zeros(COPIED_FLOATS)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def call() -> Any:
        held[0] = add(held[0])
        return held[0]

    return call
