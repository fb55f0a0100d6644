"""Matrix products of network layers: operands are float32 or bfloat16, sums are float32."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from td3_brax.algorithm.shards import TWINS

MIN_WIDTH = 48
"""Least inputs and outputs for which a layer's product uses ``compute_dtype``; smaller products are cheap."""


def _make_product(contracting: tuple[tuple[int], tuple[int]]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return a product of two matrices that contracts one axis of each, summed in float32 or wider."""

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return jax.lax.dot_general(a, b, (contracting, ((), ())), preferred_element_type=wide)

    whole = jax.custom_batching.custom_vmap(product)

    @whole.def_vmap
    def _(size: int, batched: list[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
        axes = tuple(0 if is_batched else None for is_batched in batched)
        at_once = jax.vmap(product, axes)
        if size > TWINS:
            return at_once(a, b), True
        if size == 1:
            a, b = (x[0] if is_batched else x for x, is_batched in zip((a, b), batched, strict=True))
            return whole(a, b)[None], True

        def with_copies(a: jax.Array, b: jax.Array) -> jax.Array:
            # Repeat a shared operand behind a barrier. Otherwise the compiler merges the products into one
            # wide product, and transposes its operands and its result.
            def repeated(x: jax.Array) -> jax.Array:
                return jax.lax.optimization_barrier(jnp.broadcast_to(x, (size, *x.shape)))

            operands = [
                x if is_batched else repeated(x) for x, is_batched in zip((a, b), batched, strict=True)
            ]
            return jax.vmap(product)(*operands)

        return jax.lax.platform_dependent(a, b, cpu=at_once, default=with_copies), True

    return whole


_rows_by_columns = _make_product(((1,), (0,)))
_rows_by_rows = _make_product(((1,), (1,)))
_columns_by_columns = _make_product(((0,), (0,)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, w: jax.Array, dtype: str) -> jax.Array:
    """Multiply ``x`` [B, I] by ``w`` [I, O]: operands rounded to ``dtype``, sums in float32.

    The products of its gradients are computed in the same way.
    """
    return _forward(x, w, dtype)[0]


def _rounded(x: jax.Array, dtype: str) -> jax.Array:
    return x.astype(jnp.bfloat16) if dtype == "bfloat16" else x


def _forward(x: jax.Array, w: jax.Array, dtype: str) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x, w = _rounded(x, dtype), _rounded(w, dtype)
    return _rows_by_columns(x, w), (x, w)


def _backward(
    dtype: str, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    grad = _rounded(grad, dtype)

    def by_unit_matrix(x: jax.Array, grad: jax.Array) -> jax.Array:
        # XLA's bfloat16 product on a CPU does not support a transposed left operand. A product with the
        # unit matrix transposes exactly, and is cheaper than moving the elements or multiplying in float32.
        transposed = _rows_by_rows(jnp.eye(x.shape[1], dtype=x.dtype), x)
        return _rows_by_columns(transposed.astype(x.dtype), grad)

    if dtype == "bfloat16":
        grad_w = jax.lax.platform_dependent(x, grad, cpu=by_unit_matrix, default=_columns_by_columns)
    else:
        grad_w = _columns_by_columns(x, grad)
    return _rows_by_rows(grad, w), grad_w


product.defvjp(_forward, _backward)


def product_dtype(inputs: int, outputs: int, compute_dtype: str) -> str:
    """Return the operand type of a layer's product: ``compute_dtype``, or float32 for a small layer."""
    return compute_dtype if min(inputs, outputs) >= MIN_WIDTH else "float32"
