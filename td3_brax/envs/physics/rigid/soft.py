"""MuJoCo's soft constraints: impedance, stiffness and damping (its documentation, "Computation")."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.physics.rigid.lanes import Value, Vector, apply, constant, raw, where

DEFAULT = 0.02, 1.0
"""MuJoCo's default ``solref``."""


@dataclass
class Softness:
    """MuJoCo's parameters of a soft constraint."""

    weight: Value
    """Inverse weight in the model's reference position ``qpos0``."""
    stiffness: Value
    damping: Value
    solimp: Vector
    """[5] The result of :func:`clamp_solimp`."""
    margin: Value


def clamp_solimp(solimp: np.ndarray) -> np.ndarray:
    """Return ``solimp`` [..., 5] within MuJoCo's bounds. Without a width, the impedance is constant."""
    low, high, width, middle, power = (solimp[..., i] for i in range(5))
    low, high, middle = (np.clip(x, mujoco.mjMINIMP, mujoco.mjMAXIMP) for x in (low, high, middle))
    flat, mean = width <= mujoco.mjMINVAL, (low + high) / 2
    low, high = np.where(flat, mean, low), np.where(flat, mean, high)
    return np.stack([low, high, np.where(flat, 1, width), middle, np.maximum(power, 1)], axis=-1)


def stiffness_and_damping(
    solref: np.ndarray, solimp: np.ndarray, timestep: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return MuJoCo's stiffness k and damping b [...] for ``solref`` [..., 2].

    If only one of the two numbers of ``solref`` is positive, MuJoCo takes its default.
    """
    time, ratio = solref[..., 0], solref[..., 1]
    mixed = (time > 0) != (ratio > 0)
    time, ratio = np.where(mixed, DEFAULT[0], time), np.where(mixed, DEFAULT[1], ratio)
    high = np.clip(solimp[..., 1], mujoco.mjMINIMP, mujoco.mjMAXIMP)
    safe = np.maximum(time, 2 * timestep)
    with np.errstate(divide="ignore"):
        k = np.where(time > 0, 1 / (high * safe * ratio) ** 2, -time / high**2)
        b = np.where(ratio > 0, 2 / (high * safe), -ratio / high)
    return k, b


def make_softness(
    weight: np.ndarray, solref: np.ndarray, solimp: np.ndarray, margin: np.ndarray, timestep: float
) -> Softness:
    """Return the soft constraint with MuJoCo's parameters [lanes, ...]."""
    k, b = stiffness_and_damping(solref, solimp, timestep)
    shape = [constant(x) for x in clamp_solimp(solimp).T]
    return Softness(constant(weight), constant(k), constant(b), shape, constant(margin))


def impedance(softness: Softness, distance: Value) -> Value:
    """Return MuJoCo's impedance d(r) at ``distance``."""
    low, high, width, middle, power = softness.solimp
    x = apply(jnp.minimum, apply(jnp.abs, distance * (1.0 / width)), 1.0)

    def raised(base: Value, middle: Value) -> Value:
        if power == 1.0:
            return base
        if power == 2.0:
            return base * base / middle
        return apply(jnp.power, base, power) / apply(jnp.power, middle, power - 1.0)

    rising, falling = raised(x, middle), 1.0 - raised(1.0 - x, 1.0 - middle)
    return low + where(raw(x) < raw(middle), rising, falling) * (high - low)


def weight_and_pull(softness: Softness, distance: Value) -> tuple[Value, Value]:
    """Return the inverse regularisation, 0 unless ``distance`` is negative, and the spring's acceleration."""
    d = impedance(softness, distance)
    weight = d / apply(jnp.maximum, softness.weight * (1.0 - d), mujoco.mjMINVAL)
    return where(raw(distance) < 0, weight, 0.0), softness.stiffness * d * distance
