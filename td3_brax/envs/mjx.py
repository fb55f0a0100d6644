"""MJX, imported without its notices, and its precision."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import jax

with (
    warnings.catch_warnings(),
    contextlib.redirect_stdout(io.StringIO()),  # it reports an absent optional backend on stdout
    contextlib.redirect_stderr(io.StringIO()),
):
    warnings.simplefilter("ignore")
    from mujoco import mjx

__all__ = ["mjx", "precise"]


def precise() -> contextlib.AbstractContextManager[Any]:
    """Physics keep all bits of a float32 product, whatever the learner's may do (TF32 on recent GPUs)."""
    return jax.default_matmul_precision("highest")
