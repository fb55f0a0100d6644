"""GPU kernels for the layers of an MLP whose parameters are packed into one array.

One kernel reads a layer's weights in place, adds the bias and applies the ReLU. Another writes the gradients
of all layers in place. XLA alone first copies the weights out of the array, because its products take whole
buffers, and uses further kernels for biases, ReLU masks and the sums of the biases' gradients.
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
"""Number of rows from which large tiles are used, because there are enough of them to fill a GPU."""
SMALL, LARGE = 32, 64
"""Sides of tiles. LARGE is also the number of terms of a sum that are read at once."""
MIN_SIDE = 16
"""Least side of a product on tensor cores."""
ROWS_SUMMED = 512
"""Number of rows whose outer products one program sums. More rows are summed by parallel programs."""


@dataclass(frozen=True)
class Layer:
    """A linear layer [B, inputs] -> [B, outputs] of packed parameters."""

    inputs: int
    outputs: int
    kernel: int
    """Offset of the weights [copies, inputs, outputs]."""
    bias: int
    """Offset of the biases [copies, outputs]."""
    dtype: str
    """Type to which the operands of the product are rounded."""

    def flops(self, rows: int) -> int:
        """Return the floating-point operations of its product, or of one product of its gradients."""
        return 2 * rows * self.inputs * self.outputs


@dataclass(frozen=True)
class Layers:
    """Layers of ``copies`` networks with parameters [size]; a ReLU follows each layer but the last."""

    layers: tuple[Layer, ...]
    copies: int
    size: int
    interpret: bool = False
    """Whether XLA runs the kernels, on any device."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mlp(spec: Layers, params: jax.Array, x: jax.Array) -> jax.Array:
    """Apply each of the networks in ``params`` [P] to ``x`` [B, I]; return [copies, B, outputs]."""
    return _forward(spec, params, x)[0]


def _forward(spec: Layers, params: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
    inputs = [x[None]]
    for i in range(len(spec.layers)):
        inputs.append(_layer(spec, i, params, inputs[-1]))
    return inputs[-1], (params, inputs[:-1])


def _backward(spec: Layers, residuals: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    params, inputs = residuals
    grads = [grad]
    for i in reversed(range(1, len(spec.layers))):
        grads.append(_grad_of_input(spec, i, params, grads[-1], inputs[i]))
    grad_x = _grad_of_input(spec, 0, params, grads[-1]).sum(axis=0)
    return _grad_of_params(spec, inputs, grads[::-1]), grad_x


mlp.defvjp(_forward, _backward)


def _layer(spec: Layers, index: int, params: jax.Array, x: jax.Array) -> jax.Array:
    """Apply layer ``index`` with its ReLU, if any: [1 or copies, B, inputs] -> [copies, B, outputs]."""
    layer, rows = spec.layers[index], x.shape[1]
    height, width = _tiles(rows, layer.outputs)

    def mlp_layer(params: Any, x: Any, out: Any) -> None:
        copy, row_range, column_range = _program(height, width)
        x_copy = copy if x_copies > 1 else 0

        def partial_sum(part: jax.Array) -> jax.Array:
            left = _Tile(x_copy * rows * layer.inputs, row_range, rows, part, layer.inputs).read(x)
            return _product(layer, left, _weights(layer, copy, part, column_range).read(params))

        total = _sum_over(layer.inputs, partial_sum, jnp.zeros((height, width), out.dtype))
        bias = layer.bias + copy * layer.outputs + column_range
        total += triton.load(params.at[bias], mask=column_range < layer.outputs, other=0)[None]
        if index < len(spec.layers) - 1:
            total = jnp.maximum(total, 0)
        _Tile(copy * rows * layer.outputs, row_range, rows, column_range, layer.outputs).write(out, total)

    x_copies = x.shape[0]
    grid = (spec.copies, pl.cdiv(rows, height), pl.cdiv(layer.outputs, width))
    shape = (spec.copies, rows, layer.outputs)
    return _run(spec, mlp_layer, grid, shape, layer.flops(spec.copies * rows), params, x)


def _grad_of_input(
    spec: Layers, index: int, params: jax.Array, grad: jax.Array, x: jax.Array | None = None
) -> jax.Array:
    """Backpropagate through layer ``index``: [copies, B, outputs] -> [copies, B, inputs].

    Args:
        x: [copies, B, inputs], input of the layer if it comes from a ReLU. The gradient is then that of the
            ReLU's input.
    """
    layer, rows = spec.layers[index], grad.shape[1]
    height, width = _tiles(rows, layer.inputs)

    def grad_of_input(params: Any, grad: Any, *others: Any) -> None:
        *x, out = others
        copy, row_range, column_range = _program(height, width)

        def partial_sum(part: jax.Array) -> jax.Array:
            left = _Tile(copy * rows * layer.outputs, row_range, rows, part, layer.outputs).read(grad)
            return _product(layer, left, _weights(layer, copy, column_range, part).read(params), right_axis=1)

        total = _sum_over(layer.outputs, partial_sum, jnp.zeros((height, width), out.dtype))
        tile = _Tile(copy * rows * layer.inputs, row_range, rows, column_range, layer.inputs)
        for inputs in x:
            total = jnp.where(tile.read(inputs) > 0, total, 0)
        tile.write(out, total)

    grid = (spec.copies, pl.cdiv(rows, height), pl.cdiv(layer.inputs, width))
    arrays = (params, grad) if x is None else (params, grad, x)
    shape = (spec.copies, rows, layer.inputs)
    return _run(spec, grad_of_input, grid, shape, layer.flops(spec.copies * rows), *arrays)


def _grad_of_params(spec: Layers, inputs: Sequence[jax.Array], grads: Sequence[jax.Array]) -> jax.Array:
    """Return the gradient [P] of the parameters.

    Args:
        inputs: input of each layer, [1 or copies, B, inputs].
        grads: gradient of each layer's output, [copies, B, outputs].
    """
    rows = grads[0].shape[1]
    parts = pl.cdiv(rows, ROWS_SUMMED)
    count, depth = pl.cdiv(rows, parts), SMALL
    tiles = [(_side(layer.inputs, SMALL), _side(layer.outputs, LARGE)) for layer in spec.layers]
    grids = [
        (pl.cdiv(layer.inputs, height), pl.cdiv(layer.outputs, width))
        for layer, (height, width) in zip(spec.layers, tiles, strict=True)
    ]

    def layer_gradients(i: int, index: Any, copy: Any, part: Any, x: Any, grad: Any, out: Any) -> None:
        layer, (height, width), across = spec.layers[i], tiles[i], grids[i][1]
        x_copy = copy if inputs[i].shape[0] > 1 else 0
        row_range, column_range = _range(index // across, height), _range(index % across, width)
        end = jnp.minimum((part + 1) * count, rows)

        def add(k: jax.Array, sums: Any) -> Any:
            batch = part * count + _range(k, depth)
            left = _Tile(x_copy * rows * layer.inputs, batch, end, row_range, layer.inputs).read(x)
            right = _Tile(copy * rows * layer.outputs, batch, end, column_range, layer.outputs).read(grad)
            return sums[0] + _product(layer, left, right, left_axis=0), sums[1] + right.sum(axis=0)

        zeros = jnp.zeros((height, width), out.dtype), jnp.zeros(width, out.dtype)
        total, bias_sum = jax.lax.fori_loop(0, pl.cdiv(count, depth), add, zeros)
        start = part * spec.size
        _weights(layer, copy, row_range, column_range, start).write(out, total)

        @pl.when(index < across)
        def _() -> None:
            biases = start + layer.bias + copy * layer.outputs
            _Tile(biases, jnp.zeros(1, jnp.int32), 1, column_range, layer.outputs).write(out, bias_sum[None])

    def grads_of_params(*refs: Any) -> None:
        *sources, out = refs
        index, copy, part = (pl.program_id(axis) for axis in range(3))
        first = 0
        for i, (down, across) in enumerate(grids):
            last, arrays = first + down * across, (sources[i], sources[len(grids) + i], out)
            in_layer = (index >= first) & (index < last)
            pl.when(in_layer)(functools.partial(layer_gradients, i, index - first, copy, part, *arrays))
            first = last

    grid = (sum(down * across for down, across in grids), spec.copies, parts)
    flops, shape = sum(layer.flops(spec.copies * rows) for layer in spec.layers), (parts, spec.size)
    return _run(spec, grads_of_params, grid, shape, flops, *inputs, *grads).sum(axis=0)


@dataclass(frozen=True)
class _Tile:
    """Rows and columns of a matrix [height, width] that begins at ``offset`` in a flat array."""

    offset: Any
    rows: jax.Array
    height: Any
    columns: jax.Array
    width: int

    @property
    def inside(self) -> jax.Array:
        return (self.rows < self.height)[:, None] & (self.columns < self.width)[None]

    @property
    def indices(self) -> jax.Array:
        return self.offset + self.rows[:, None] * self.width + self.columns[None]

    def read(self, ref: Any) -> jax.Array:
        """Return the tile's numbers, with 0 outside of the matrix."""
        return triton.load(ref.at[self.indices], mask=self.inside, other=0)

    def write(self, ref: Any, numbers: jax.Array) -> None:
        # In interpret mode, masked elements are written too, with old values. Send them past the end of the
        # array, so that they cannot overwrite new values.
        indices = jnp.where(self.inside, self.indices, ref.shape[0])
        triton.store(ref.at[indices], numbers, mask=self.inside)


def _weights(layer: Layer, copy: Any, rows: jax.Array, columns: jax.Array, start: Any = 0) -> _Tile:
    """Return a tile of a layer's weights, in parameters that begin at ``start``."""
    offset = start + layer.kernel + copy * layer.inputs * layer.outputs
    return _Tile(offset, rows, layer.inputs, columns, layer.outputs)


def _product(
    layer: Layer, left: jax.Array, right: jax.Array, left_axis: int = 1, right_axis: int = 0
) -> jax.Array:
    """Multiply two matrices, contracting axis ``left_axis`` of one with ``right_axis`` of the other.

    Float32 operands are rounded to TF32, as XLA does by default.
    """
    is_bfloat16 = layer.dtype == "bfloat16"
    left, right = (x.astype(jnp.bfloat16) if is_bfloat16 else x for x in (left, right))
    precision = None if jax.default_matmul_precision.value else jax.lax.Precision.HIGH
    sum_dtype = jnp.promote_types(left.dtype, jnp.float32)
    dimensions = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, precision, preferred_element_type=sum_dtype)


def _sum_over(size: int, part: Callable[[jax.Array], jax.Array], total: jax.Array) -> jax.Array:
    """Add ``part(range)`` to ``total`` for all the consecutive ranges that make up ``size``."""
    depth = _side(size, LARGE)
    return jax.lax.fori_loop(0, pl.cdiv(size, depth), lambda k, sums: sums + part(_range(k, depth)), total)


def _side(size: int, max_side: int) -> int:
    return min(max_side, max(MIN_SIDE, pl.next_power_of_2(size)))


def _tiles(rows: int, columns: int) -> tuple[int, int]:
    max_side = LARGE if rows >= MANY_ROWS else SMALL
    return _side(rows, max_side), _side(columns, max_side)


def _range(index: Any, size: int) -> jax.Array:
    return index * size + jnp.arange(size, dtype=jnp.int32)


def _program(height: int, width: int) -> tuple[Any, jax.Array, jax.Array]:
    """Return the copy, the rows and the columns of this program, in a grid of copies and tiles."""
    return pl.program_id(0), _range(pl.program_id(1), height), _range(pl.program_id(2), width)


def _run(
    spec: Layers,
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    shape: tuple[int, ...],
    flops: int,
    *arrays: jax.Array,
) -> jax.Array:
    """Run ``kernel`` on a grid of programs, which see flat arrays; return its output in ``shape``."""
    backend: dict[str, Any] = {"compiler_params": triton.CompilerParams(num_warps=4, num_stages=2)}
    size = math.prod(shape)
    out = pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=jax.ShapeDtypeStruct((size,), arrays[0].dtype),
        # `td3-brax bench` reads the operations of one program, because members multiply the grid.
        metadata={"flops": str(flops / math.prod(grid))},
        **({"interpret": True} if spec.interpret else backend),
    )(*(x.reshape(-1) for x in arrays))
    return out.reshape(shape)
