"""Kernels for NVIDIA GPUs, written by hand with Pallas and Triton."""
