"""Layers of an MLP whose parameters are one array, as kernels of a GPU.

A kernel reads a layer's weights where they lie, adds the bias and does the ReLU; another writes the gradients
of all layers where they belong. Compiled by XLA alone, weights are first copied out of the array, as its
products take whole buffers, and biases, masks of ReLU and sums of biases' gradients are further kernels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

MANY_ROWS = 1024
"""Rows from which tiles are larger, as there are enough of them to fill a GPU."""
SMALL, LARGE = 32, 64
"""Sides of a tile; LARGE is also how much of a sum is read at once."""
LEAST = 16
"""Of a tensor core's product."""
ROWS_SUMMED = 512
"""Rows whose outer products are summed by one program; more are summed side by side."""


@dataclass(frozen=True)
class Layer:
    """x [B, inputs] -> [B, outputs]; where its weights [copies, inputs, outputs] and biases begin."""

    inputs: int
    outputs: int
    kernel: int
    bias: int
    dtype: str
    """What the product's operands are rounded to."""

    def flops(self, rows: int) -> int:
        """Of its product, or of one for its gradients."""
        return 2 * rows * self.inputs * self.outputs


@dataclass(frozen=True)
class Layers:
    """Of ``copies`` networks, whose parameters are one array [size]; a ReLU follows all but the last."""

    layers: tuple[Layer, ...]
    copies: int
    size: int
    interpret: bool = False
    """Run by XLA instead, on any device."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mlp(form: Layers, params: jax.Array, x: jax.Array) -> jax.Array:
    """``x`` [B, I] through each of the networks in ``params`` [P]: [copies, B, outputs]."""
    return _forward(form, params, x)[0]


def _forward(form: Layers, params: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
    inputs = [x[None]]
    for i in range(len(form.layers)):
        inputs.append(_layer(form, i, params, inputs[-1]))
    return inputs[-1], (params, inputs[:-1])


def _backward(form: Layers, kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    params, inputs = kept
    grads = [grad]
    for i in reversed(range(1, len(form.layers))):
        grads.append(_grad_of_input(form, i, params, grads[-1], inputs[i]))
    grad_x = _grad_of_input(form, 0, params, grads[-1]).sum(axis=0)
    return _grad_of_params(form, inputs, grads[::-1]), grad_x


mlp.defvjp(_forward, _backward)


def _layer(form: Layers, which: int, params: jax.Array, x: jax.Array) -> jax.Array:
    """[1 or copies, B, inputs] -> [copies, B, outputs], after the ReLU where there is one."""
    layer, rows = form.layers[which], x.shape[1]
    high, wide = _tiles(rows, layer.outputs)

    def layer_of_mlp(params: Any, x: Any, out: Any) -> None:
        copy, at, to = _program(high, wide)
        own = copy if x_copies > 1 else 0

        def part_of_sum(part: jax.Array) -> jax.Array:
            left = _Tile(own * rows * layer.inputs, at, rows, part, layer.inputs).read(x)
            return _product(layer, left, _weights(layer, copy, part, to).read(params))

        total = _summed(layer.inputs, part_of_sum, jnp.zeros((high, wide), out.dtype))
        bias = layer.bias + copy * layer.outputs + to
        total += triton.load(params.at[bias], mask=to < layer.outputs, other=0)[None]
        if which < len(form.layers) - 1:
            total = jnp.maximum(total, 0)
        _Tile(copy * rows * layer.outputs, at, rows, to, layer.outputs).write(out, total)

    x_copies = x.shape[0]
    grid = (form.copies, pl.cdiv(rows, high), pl.cdiv(layer.outputs, wide))
    shape = (form.copies, rows, layer.outputs)
    return _run(form, layer_of_mlp, grid, shape, layer.flops(form.copies * rows), params, x)


def _grad_of_input(
    form: Layers, which: int, params: jax.Array, grad: jax.Array, x: jax.Array | None = None
) -> jax.Array:
    """[copies, B, outputs] -> [copies, B, inputs]: of what was before the ReLU that gave ``x``, if any."""
    layer, rows = form.layers[which], grad.shape[1]
    high, wide = _tiles(rows, layer.inputs)

    def grad_of_input(params: Any, grad: Any, *others: Any) -> None:
        *x, out = others
        copy, at, to = _program(high, wide)

        def part_of_sum(part: jax.Array) -> jax.Array:
            left = _Tile(copy * rows * layer.outputs, at, rows, part, layer.outputs).read(grad)
            return _product(layer, left, _weights(layer, copy, to, part).read(params), right_by=1)

        total = _summed(layer.outputs, part_of_sum, jnp.zeros((high, wide), out.dtype))
        tile = _Tile(copy * rows * layer.inputs, at, rows, to, layer.inputs)
        for inputs in x:
            total = jnp.where(tile.read(inputs) > 0, total, 0)
        tile.write(out, total)

    grid = (form.copies, pl.cdiv(rows, high), pl.cdiv(layer.inputs, wide))
    arrays = (params, grad) if x is None else (params, grad, x)
    shape = (form.copies, rows, layer.inputs)
    return _run(form, grad_of_input, grid, shape, layer.flops(form.copies * rows), *arrays)


def _grad_of_params(form: Layers, inputs: Sequence[jax.Array], grads: Sequence[jax.Array]) -> jax.Array:
    """[P] from every layer's inputs [1 or copies, B, inputs] and gradients [copies, B, outputs]."""
    rows = grads[0].shape[1]
    parts = pl.cdiv(rows, ROWS_SUMMED)
    count, depth = pl.cdiv(rows, parts), SMALL
    tiles = [(_side(layer.inputs, SMALL), _side(layer.outputs, LARGE)) for layer in form.layers]
    grids = [
        (pl.cdiv(layer.inputs, high), pl.cdiv(layer.outputs, wide))
        for layer, (high, wide) in zip(form.layers, tiles, strict=True)
    ]

    def of_layer(i: int, index: Any, copy: Any, part: Any, x: Any, grad: Any, out: Any) -> None:
        layer, (high, wide), across = form.layers[i], tiles[i], grids[i][1]
        own = copy if inputs[i].shape[0] > 1 else 0
        at, to = _range(index // across, high), _range(index % across, wide)
        end = jnp.minimum((part + 1) * count, rows)

        def add(k: jax.Array, sums: Any) -> Any:
            batch = part * count + _range(k, depth)
            left = _Tile(own * rows * layer.inputs, batch, end, at, layer.inputs).read(x)
            right = _Tile(copy * rows * layer.outputs, batch, end, to, layer.outputs).read(grad)
            return sums[0] + _product(layer, left, right, left_by=0), sums[1] + right.sum(axis=0)

        nothing = jnp.zeros((high, wide), out.dtype), jnp.zeros(wide, out.dtype)
        total, of_bias = jax.lax.fori_loop(0, pl.cdiv(count, depth), add, nothing)
        start = part * form.size
        _weights(layer, copy, at, to, start).write(out, total)

        @pl.when(index < across)
        def _() -> None:
            biases = start + layer.bias + copy * layer.outputs
            _Tile(biases, jnp.zeros(1, jnp.int32), 1, to, layer.outputs).write(out, of_bias[None])

    def grads_of_params(*refs: Any) -> None:
        *sources, out = refs
        index, copy, part = (pl.program_id(axis) for axis in range(3))
        first = 0
        for i, (down, across) in enumerate(grids):
            last, own = first + down * across, (sources[i], sources[len(grids) + i], out)
            here = (index >= first) & (index < last)
            pl.when(here)(functools.partial(of_layer, i, index - first, copy, part, *own))
            first = last

    grid = (sum(down * across for down, across in grids), form.copies, parts)
    flops, shape = sum(layer.flops(form.copies * rows) for layer in form.layers), (parts, form.size)
    return _run(form, grads_of_params, grid, shape, flops, *inputs, *grads).sum(axis=0)


@dataclass(frozen=True)
class _Tile:
    """Rows and columns of a matrix [height, width] that starts at ``offset`` of an array."""

    offset: Any
    rows: jax.Array
    height: Any
    columns: jax.Array
    width: int

    @property
    def inside(self) -> jax.Array:
        return (self.rows < self.height)[:, None] & (self.columns < self.width)[None]

    @property
    def places(self) -> jax.Array:
        return self.offset + self.rows[:, None] * self.width + self.columns[None]

    def read(self, ref: Any) -> jax.Array:
        """Its numbers; 0 outside of the matrix."""
        return triton.load(ref.at[self.places], mask=self.inside, other=0)

    def write(self, ref: Any, numbers: jax.Array) -> None:
        # Interpreted, what is outside is written too, as it was: elsewhere, lest it undo what is inside.
        places = jnp.where(self.inside, self.places, ref.shape[0])
        triton.store(ref.at[places], numbers, mask=self.inside)


def _weights(layer: Layer, copy: Any, rows: jax.Array, columns: jax.Array, start: Any = 0) -> _Tile:
    """Of a layer's weights, in parameters that begin at ``start``."""
    offset = start + layer.kernel + copy * layer.inputs * layer.outputs
    return _Tile(offset, rows, layer.inputs, columns, layer.outputs)


def _product(
    layer: Layer, left: jax.Array, right: jax.Array, left_by: int = 1, right_by: int = 0
) -> jax.Array:
    """Summed over an axis of each, rounded as XLA does where nothing else is asked for: to TF32."""
    narrow = layer.dtype == "bfloat16"
    left, right = (x.astype(jnp.bfloat16) if narrow else x for x in (left, right))
    precision = None if jax.default_matmul_precision.value else jax.lax.Precision.HIGH
    wide = jnp.promote_types(left.dtype, jnp.float32)
    over = (((left_by,), (right_by,)), ((), ()))
    return jax.lax.dot_general(left, right, over, precision, preferred_element_type=wide)


def _summed(size: int, part: Callable[[jax.Array], jax.Array], total: jax.Array) -> jax.Array:
    """``total`` and what ``part`` makes of each of the ranges that are ``size`` together."""
    deep = _side(size, LARGE)
    return jax.lax.fori_loop(0, pl.cdiv(size, deep), lambda k, sums: sums + part(_range(k, deep)), total)


def _side(size: int, most: int) -> int:
    return min(most, max(LEAST, pl.next_power_of_2(size)))


def _tiles(rows: int, columns: int) -> tuple[int, int]:
    most = LARGE if rows >= MANY_ROWS else SMALL
    return _side(rows, most), _side(columns, most)


def _range(index: Any, size: int) -> jax.Array:
    return index * size + jnp.arange(size, dtype=jnp.int32)


def _program(high: int, wide: int) -> tuple[Any, jax.Array, jax.Array]:
    """Of a grid of copies and tiles: the copy, the tile's rows and columns."""
    return pl.program_id(0), _range(pl.program_id(1), high), _range(pl.program_id(2), wide)


def _run(
    form: Layers,
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    shape: tuple[int, ...],
    flops: int,
    *arrays: jax.Array,
) -> jax.Array:
    """The array of ``shape`` that programs of ``kernel`` fill, which see all arrays flat."""
    how: dict[str, Any] = {"compiler_params": triton.CompilerParams(num_warps=4, num_stages=2)}
    size = math.prod(shape)
    made = pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=jax.ShapeDtypeStruct((size,), arrays[0].dtype),
        # For whoever counts (`td3-brax bench`): of one program, as members multiply the grid.
        metadata={"flops": str(flops / math.prod(grid))},
        **({"interpret": True} if form.interpret else how),
    )(*(x.reshape(-1) for x in arrays))
    return made.reshape(shape)
