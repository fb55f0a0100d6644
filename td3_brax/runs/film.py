"""A film of a run, made by a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def render_film(run: Path, *options: str) -> tuple[bool, str]:
    """Make one by a process of its own, which leaves the accelerator alone.

    Returns:
        whether it did, and its last line.
    """
    argv = [sys.executable, "-m", "td3_brax", "render", str(run), *options]
    done = subprocess.run(argv, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    made = done.returncode == 0
    lines = (done.stdout if made else done.stderr).strip().splitlines()
    return made, lines[-1] if lines else ""
