"""Which GPUs can run the kernels."""

from __future__ import annotations

AMPERE = 8.0
"""Compute capability."""


def triton_gpus() -> bool:
    """Whether Triton knows the GPUs here: those from Ampere on."""
    import jax

    gpus = (device for device in jax.local_devices() if device.platform == "gpu")
    return all(float(gpu.compute_capability) >= AMPERE for gpu in gpus)
