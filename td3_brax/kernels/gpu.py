"""Detection of GPUs that can run the kernels."""

from __future__ import annotations

AMPERE = 8.0
"""Compute capability of the oldest GPUs that Triton supports."""


def triton_gpus() -> bool:
    """Return whether Triton supports all GPUs of this process: Ampere or newer."""
    import jax

    gpus = (device for device in jax.local_devices() if device.platform == "gpu")
    return all(float(gpu.compute_capability) >= AMPERE for gpu in gpus)
