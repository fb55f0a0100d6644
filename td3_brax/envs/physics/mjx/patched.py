"""MJX with the patches of other libraries that the environments need.

Import ``mjx`` from here. This file has all patches of other libraries that the environments need. The patches
of JAX and MJX apply when this module is imported, that of brax when ``tasks/brax.py`` calls it. Each patch
names the version that it is for and the test that guards it. The only other patch is in ``runs/cache.py``:
it is for the compilation cache of JAX and needs code of that folder.
"""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import mlir

from td3_brax.envs.suppress import suppress_output

with suppress_output():
    from mujoco import mjx

__all__ = ["mjx", "precise"]

IN_PLACE = 36_000, 500_000
"""Largest B n^2 and B n^3 for which LAPACK's kernels were seen to handle B matrices [n, n] in place."""


def factor(a: jax.Array) -> jax.Array:
    """Return lower Cholesky factors of ``a`` [..., n, n], column by column; NaN if not positive definite."""
    n = a.shape[-1]
    rows = jnp.arange(n)
    columns = []
    for i in range(n):
        column = jnp.where(rows >= i, a[..., i] * jax.lax.rsqrt(a[..., i, i])[..., None], 0)
        columns.append(column)
        a = a - column[..., :, None] * column[..., None, :]
    return jnp.stack(columns, axis=-1)


def cholesky_may_deadlock() -> bool:
    """Return whether this version of JAX is older than 0.11.2."""
    return tuple(map(int, re.findall(r"\d+", jax.__version__)[:3])) < (0, 11, 2)


def is_small(shape: tuple[int, ...]) -> bool:
    """Return whether LAPACK's kernels handle matrices [..., n, n] of this shape in place."""
    *batch, n, _ = shape
    count = math.prod(batch)
    return count * n**2 <= IN_PLACE[0] and count * n**3 <= IN_PLACE[1]


def _patch_cholesky() -> None:
    """Compile large batches of Cholesky factors and triangular solves for a CPU without LAPACK.

    In JAX before 0.11.2, LAPACK's kernels split a large batch into tasks for XLA's thread pool and wait for
    them on a thread of the same pool. If as many kernels run at once as the pool has threads, such as one on
    each of two devices with two cores, no thread is left for the tasks and the program hangs. Small batches
    are handled in place and still go to LAPACK. Large batches use :func:`factor` and XLA's triangular solve.

    Needed for JAX before 0.11.2: remove it once the package requires a later one. Guarded by
    ``test_factors_and_solves_on_as_many_devices_as_cores_never_wait_for_each_other`` in tests/test_brax.py.
    """
    if not cholesky_may_deadlock():
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


def _patch_mjx_device() -> None:
    """Put MJX's models and data on a device of this process if there are several processes.

    MJX 3.17 puts them on the first device of all, which only the first process can read. Guarded by
    ``test_models_are_on_a_device_of_the_process`` in tests/test_hosts.py: remove the patch once that test
    passes without it.
    """
    from mujoco.mjx._src import io

    original = io._resolve_impl_and_device

    def resolve(impl: Any, device: Any = None) -> Any:
        if device is None and jax.process_count() > 1:
            device = jax.local_devices()[0]
        return original(impl, device)

    io._resolve_impl_and_device = resolve


class _NumpyWithOldClip:
    """``jax.numpy`` whose ``clip`` still has the parameter names that JAX 0.10 removed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def clip(x: jax.Array, a_min: Any = None, a_max: Any = None) -> jax.Array:
        return jnp.clip(x, a_min, a_max)


def patch_brax_fluid(fluid: Any) -> None:
    """Let ``brax.fluid``, which computes the drag of brax's swimmer, use the old parameter names of ``clip``.

    Needed for brax 0.14.2 with JAX 0.10 and later. Guarded by
    ``test_brax_swimmer_still_needs_the_older_names_of_clip`` in tests/test_brax.py: remove the patch once
    that test fails.
    """
    fluid.jp = _NumpyWithOldClip()


_patch_cholesky()
_patch_mjx_device()


def precise() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which float32 products of the physics keep all bits.

    The learner may use a lower precision, such as TF32 on recent GPUs.
    """
    return jax.default_matmul_precision("highest")
