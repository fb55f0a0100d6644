"""MJX, imported and used without the notices that it, brax and MuJoCo print."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import mujoco

with (
    warnings.catch_warnings(),
    contextlib.redirect_stdout(io.StringIO()),  # it reports an absent optional backend on stdout
    contextlib.redirect_stderr(io.StringIO()),
):
    warnings.simplefilter("ignore")
    from mujoco import mjx

__all__ = ["mjx", "precise", "quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of deprecation, and without MuJoCo's log file in the user's folder."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda _: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mujoco.set_mju_user_warning(before)


def precise() -> contextlib.AbstractContextManager[Any]:
    """Physics keep all bits of a float32 product, whatever the learner's may do (TF32 on recent GPUs)."""
    return jax.default_matmul_precision("highest")
