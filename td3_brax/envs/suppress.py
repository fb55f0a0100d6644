"""Without the notices that Gymnasium, brax and MuJoCo print."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import mujoco


@contextlib.contextmanager
def suppress_warnings() -> Iterator[None]:
    """Without warnings of deprecation, and without MuJoCo's log file in the user's folder."""
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
    """Without anything that is printed either, such as the news that an optional part is not installed."""
    with (
        suppress_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
