"""Make a film of a run in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def render_film(run: Path, *options: str) -> tuple[bool, str]:
    """Run ``td3-brax render`` in a separate process that does not use the accelerator.

    Returns:
        whether it succeeded, and its last line of output.
    """
    argv = [sys.executable, "-m", "td3_brax", "render", str(run), *options]
    done = subprocess.run(argv, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    made = done.returncode == 0
    lines = (done.stdout if made else done.stderr).strip().splitlines()
    return made, lines[-1] if lines else ""
