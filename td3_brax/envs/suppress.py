"""Context managers that suppress the notices of Gymnasium, brax and MuJoCo."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import mujoco


@contextlib.contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress Python warnings, and keep MuJoCo from writing a log file in the working directory."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda _: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mujoco.set_mju_user_warning(before)


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Suppress warnings and all printed output, such as notes about missing optional packages."""
    with (
        suppress_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
