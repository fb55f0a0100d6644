"""How stiff limits and contacts are, as MuJoCo has it (its documentation, "Computation: impedance")."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.constraints import spring
from td3_brax.envs.rigid.lanes import Value, Vector, apply, constant, raw, where


@dataclass
class Soft:
    """How stiff a constraint is, in MuJoCo's terms."""

    weight: Value
    """Inverse weight at the model's own position."""
    stiffness: Value
    damping: Value
    solimp: Vector
    """[5]"""
    margin: Value


def soft(
    weight: np.ndarray, solref: np.ndarray, solimp: np.ndarray, margin: np.ndarray, timestep: float
) -> Soft:
    """Of MuJoCo's parameters [lanes, ...]."""
    k, b = spring(solref, solimp, timestep)
    low, high, middle = (np.clip(solimp[:, i], mujoco.mjMINIMP, mujoco.mjMAXIMP) for i in (0, 1, 3))
    width, power = np.maximum(solimp[:, 2], mujoco.mjMINVAL), np.maximum(solimp[:, 4], 1)
    shape = [constant(x) for x in (low, high, width, middle, power)]
    return Soft(constant(weight), constant(k), constant(b), shape, constant(margin))


def impedance(of: Soft, distance: Value) -> Value:
    """MuJoCo's d(r)."""
    low, high, width, middle, power = of.solimp
    x = apply(jnp.minimum, apply(jnp.abs, distance * (1.0 / width)), 1.0)

    def raised(base: Value, middle: Value) -> Value:
        if power == 1.0:
            return base
        if power == 2.0:
            return base * base / middle
        return apply(jnp.power, base, power) / apply(jnp.power, middle, power - 1.0)

    rising, falling = raised(x, middle), 1.0 - raised(1.0 - x, 1.0 - middle)
    return low + where(raw(x) < raw(middle), rising, falling) * (high - low)


def weigh(of: Soft, distance: Value) -> tuple[Value, Value]:
    """The inverse regularisation at a ``distance``, 0 where that is not negative, and the spring's pull."""
    d = impedance(of, distance)
    weight = d / apply(jnp.maximum, of.weight * (1.0 - d), mujoco.mjMINVAL)
    return where(raw(distance) < 0, weight, 0.0), of.stiffness * d * distance
