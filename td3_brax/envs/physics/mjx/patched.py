"""MJX without its notices, on a device of this process; its precision; factors that never wait on others."""

from __future__ import annotations

import contextlib
from typing import Any

import jax

from td3_brax.envs.physics.mjx import cholesky
from td3_brax.envs.suppress import suppress_output

with suppress_output():
    from mujoco import mjx

__all__ = ["mjx", "precise"]

cholesky.install()


def _on_own_device() -> None:
    """Models and data go to a device of this process where there are several.

    MJX puts them on the first device of all, where only the first process can read them.
    """
    from mujoco.mjx._src import io

    kept = io._resolve_impl_and_device

    def resolve(impl: Any, device: Any = None) -> Any:
        if device is None and jax.process_count() > 1:
            device = jax.local_devices()[0]
        return kept(impl, device)

    io._resolve_impl_and_device = resolve


_on_own_device()


def precise() -> contextlib.AbstractContextManager[Any]:
    """Physics keep all bits of a float32 product, whatever the learner's may do (TF32 on recent GPUs)."""
    return jax.default_matmul_precision("highest")
