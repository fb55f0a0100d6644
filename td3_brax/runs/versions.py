"""The versions and hardware that a run depends on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from pathlib import Path
from platform import python_version

from td3_brax import __version__
from td3_brax.runs.device import cpu_cores


def machine() -> dict[str, str]:
    """Return the versions and hardware that a run's results and times depend on."""
    import jax

    packages = ("jax", "mujoco", "mujoco-mjx", "brax")
    versions = {name: importlib.metadata.version(name) for name in packages}
    device = jax.devices()[0]
    name, count = device.device_kind, f"{cpu_cores()} cores"
    if device.platform == "cpu":
        with contextlib.suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), name)
    else:
        count = str(len(jax.devices()))
    return {"td3-brax": __version__, "Python": python_version(), **versions, "device": f"{name}, {count}"}


def versions() -> dict[str, str]:
    """Return the versions and hardware that a run's results depend on, bit for bit."""
    import jax

    return {"td3-brax": __version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind}
