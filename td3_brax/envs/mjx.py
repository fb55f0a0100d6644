"""MJX, imported without its notices, its precision, and factors that never wait for each other."""

from __future__ import annotations

import contextlib
from typing import Any

import jax

from td3_brax.envs import cholesky
from td3_brax.envs.quiet import silent

with silent():
    from mujoco import mjx

__all__ = ["mjx", "precise"]

cholesky.install()


def precise() -> contextlib.AbstractContextManager[Any]:
    """Physics keep all bits of a float32 product, whatever the learner's may do (TF32 on recent GPUs)."""
    return jax.default_matmul_precision("highest")
