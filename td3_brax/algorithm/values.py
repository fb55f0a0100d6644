"""What a critic's outputs stand for: a value, as in the paper, or a histogram over a grid of values.

The histogram is trained towards a Gaussian around the scalar target by cross-entropy (HL-Gauss: Imani,
White 2018; Farebrother et al. 2024, arXiv 2403.03950, section 3). So the target of TD3 stays what it is, and
the size of the rewards does not set the size of the gradients.

The grid holds every target. Bin ``k``, counted from the middle one, stands for the value

    center + spread * UNIT * sinh(spacing * k)

so bins are narrow near the center and grow with the distance from it: the outermost are more than ``REACH``
spreads away. Center and spread follow the mean and the standard deviation of the targets. The spread rises at
once only for a target beyond the grid. Two properties make a moving grid safe:

- The Gaussian lies on the axis of bins. There its mean value is that of its middle times a constant, whatever
  the middle, because E[sinh(x + noise)] = sinh(x) E[exp(noise)]. The bins' values are divided by that
  constant, so a histogram's mean is its target.
- Online and target critics have a grid each. The target's is averaged with its parameters, so that a new grid
  changes no target before the online critics have learnt it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.algorithm.state import ValueScale

WIDTH = 0.75
"""Standard deviation of the Gaussian, in bins (section 3 of the paper above)."""
UNIT = 0.5
"""Bins are about equally wide up to this many spreads from the center; farther out they widen."""
REACH = 100.0
"""The greatest distance of a target from the center that the grid holds, in spreads."""
EDGE = 3
"""Bins between that target and the end of the grid, for its Gaussian: four standard deviations."""
RATE = 1e-2
"""Share of the way that center and squared spread go to the targets' mean and variance with each update."""
LEAST = 1e-30, 1e-3
"""The least spread: by itself, and as a share of the center."""


def spacing(bins: int) -> float:
    """Return the distance of two bins, on the axis of asinh((value - center) / spread / UNIT)."""
    return math.asinh(REACH / UNIT) / ((bins - 1) / 2 - EDGE)


def grid(bins: int) -> np.ndarray:
    """Return what the bins stand for: distances [bins] from the center, in spreads."""
    step = spacing(bins)
    # E[exp(noise)] of the Gaussian, and of rounding to the nearest bin.
    smoothed = math.exp((step * WIDTH) ** 2 / 2) * math.sinh(step / 2) / (step / 2)
    return UNIT * np.sinh(step * (np.arange(bins) - (bins - 1) / 2)) / smoothed


def log_shares(out: jax.Array) -> jax.Array:
    """Return the logarithms of the bins' shares, for outputs [..., K].

    Outputs of 0 give a wide bell around the center. Equal shares would make a new critic's values large.
    """
    return jax.nn.log_softmax(out - np.log1p(grid(out.shape[-1]) ** 2).astype(out.dtype))


def value(out: jax.Array, scale: ValueScale) -> jax.Array:
    """Return the values [...] of outputs [..., K]: the output itself for K = 1, else the histogram's mean."""
    if out.shape[-1] == 1:
        return out[..., 0]
    return scale.center + scale.spread * normal(out)


def normal(out: jax.Array) -> jax.Array:
    """Return the values [...] of outputs [..., K] as distances from the center, in spreads.

    Their gradients do not depend on the size of the rewards.
    """
    bins = out.shape[-1]
    return out[..., 0] if bins == 1 else jnp.exp(log_shares(out)) @ grid(bins).astype(out.dtype)


def loss(out: jax.Array, target: jax.Array, scale: ValueScale) -> jax.Array:
    """Return the losses [..., B] of outputs [..., B, K] for targets [B].

    They are squared errors for K = 1, else cross-entropies.
    """
    if out.shape[-1] == 1:
        return (out[..., 0] - target) ** 2
    return -jnp.sum(histogram(target, scale, out.shape[-1]) * log_shares(out), axis=-1)


def histogram(target: jax.Array, scale: ValueScale, bins: int) -> jax.Array:
    """Return the shares [B, bins] of a Gaussian around each target [B]."""
    middle = (bins - 1) / 2
    place = jnp.arcsinh(distance(target, scale) / UNIT) / spacing(bins)
    edges = jnp.arange(bins + 1, dtype=target.dtype) - 0.5 - middle
    below = jax.scipy.special.erf((edges - place[:, None]) / (2**0.5 * WIDTH))
    return (below[:, 1:] - below[:, :-1]) / (below[:, -1:] - below[:, :1])


def distance(target: jax.Array, scale: ValueScale) -> jax.Array:
    """Return the signed distances [B] of targets [B] from the center, in spreads."""
    return (target - scale.center) / scale.spread


def widen(scale: ValueScale, least: jax.Array, most: jax.Array) -> ValueScale:
    """Return a scale whose grid holds targets from ``least`` [] to ``most`` [].

    The first of all is in their middle, and they are three spreads away from it at most.
    """
    first = scale.spread == 0
    center = jnp.where(first, (least + most) / 2, scale.center)
    far = jnp.maximum(most - center, center - least)
    spread = jnp.where(first, far / 3, scale.spread)
    return ValueScale(center, jnp.maximum(spread, jnp.maximum(far / REACH, _floor(center))))


def follow(scale: ValueScale, mean: jax.Array, square: jax.Array) -> ValueScale:
    """Return the scale after an update whose targets' distances have these moments []."""
    center = scale.center + RATE * scale.spread * mean
    variance = jnp.maximum(square - mean**2, 0)
    spread = scale.spread * jnp.sqrt(1 + RATE * (variance - 1))
    return ValueScale(center, jnp.maximum(spread, _floor(center)))


def _floor(center: jax.Array) -> jax.Array:
    """Return the least spread [] around ``center`` []."""
    return jnp.maximum(LEAST[0], LEAST[1] * jnp.abs(center))
