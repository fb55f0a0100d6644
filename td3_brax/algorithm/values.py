"""Interpretation of a critic's outputs: one value, as in the paper, or a histogram over a grid of values.

The histogram is trained towards a Gaussian around the scalar target by cross-entropy (HL-Gauss: Imani,
White 2018; Farebrother et al. 2024, arXiv 2403.03950, section 3). The target is still TD3's scalar target,
but the size of the gradients no longer depends on the size of the rewards.

The grid covers every target. Bin ``k``, counted from the middle one, represents the value

    center + spread * UNIT * sinh(spacing * k)

so bins are narrow near the center and widen with the distance from it; the outermost bins are more than
``REACH`` spreads away. Center and spread slowly follow the targets' mean and standard deviation. The spread
jumps only if a target lies beyond the grid. Three properties make a moving grid safe:

- The Gaussian is defined on the axis of bins. Its mean value is the value at its middle times a constant that
  does not depend on the middle, because E[sinh(x + noise)] = sinh(x) E[exp(noise)]. The bins' values are
  divided by that constant, so the mean of a histogram is its target.
- The center starts at the value that the first batches have if it is the same in every state. New critics
  give values near the center, so a constant added to all rewards does not make unknown actions look bad.
- Online and target critics each have their own grid. The target critics' grid is Polyak-averaged together
  with their parameters, so a new grid changes no target before the online critics have learnt it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.algorithm.state import ValueScale

WIDTH = 0.75
"""Standard deviation of the Gaussian, in bins (Farebrother et al. 2024, section 3)."""
UNIT = 0.5
"""Distance from the center, in spreads, up to which bins are about equally wide; farther out they widen."""
REACH = 100.0
"""Greatest distance from the center, in spreads, at which the grid covers a target."""
EDGE = 3
"""Bins beyond the farthest target, which hold the tail of its Gaussian: four standard deviations."""
RATE = 1e-2
"""Step of the moving averages of center and squared spread, per update."""
MAX_HORIZON = 1000.0
"""Most steps that the first center takes to lie ahead, for a ``gamma`` near 1 and no terminations."""
MIN_SPREAD = 1e-30, 1e-3
"""Least spread: an absolute bound, and one as a fraction of the center."""


def spacing(bins: int) -> float:
    """Return the distance between two bins on the axis of asinh((value - center) / spread / UNIT)."""
    return math.asinh(REACH / UNIT) / ((bins - 1) / 2 - EDGE)


def grid(bins: int) -> np.ndarray:
    """Return the values of the bins [bins], as distances from the center in spreads."""
    step = spacing(bins)
    # E[exp(noise)], where the noise is the Gaussian and the rounding to the nearest bin.
    inflation = math.exp((step * WIDTH) ** 2 / 2) * math.sinh(step / 2) / (step / 2)
    return UNIT * np.sinh(step * (np.arange(bins) - (bins - 1) / 2)) / inflation


def log_probabilities(out: jax.Array) -> jax.Array:
    """Return the log-probabilities [..., K] of the bins, for outputs [..., K].

    Outputs of 0 give a wide bell around the center.
    A uniform distribution would give a new critic large values.
    """
    return jax.nn.log_softmax(out - np.log1p(grid(out.shape[-1]) ** 2).astype(out.dtype))


def value(out: jax.Array, scale: ValueScale) -> jax.Array:
    """Return the values [...] of outputs [..., K]: the output itself if K = 1, else the histogram's mean."""
    if out.shape[-1] == 1:
        return out[..., 0]
    return scale.center + scale.spread * standardized_value(out)


def standardized_value(out: jax.Array) -> jax.Array:
    """Return the values [...] of outputs [..., K] as distances from the center, in spreads (raw if K = 1).

    For K > 1 their gradients do not depend on the size of the rewards.
    """
    bins = out.shape[-1]
    return out[..., 0] if bins == 1 else jnp.exp(log_probabilities(out)) @ grid(bins).astype(out.dtype)


def loss(out: jax.Array, target: jax.Array, scale: ValueScale) -> jax.Array:
    """Return the losses [..., B] of outputs [..., B, K] for targets [B].

    The loss is the squared error if K = 1, else the cross-entropy.
    """
    if out.shape[-1] == 1:
        return (out[..., 0] - target) ** 2
    return -jnp.sum(histogram(target, scale, out.shape[-1]) * log_probabilities(out), axis=-1)


def histogram(target: jax.Array, scale: ValueScale, bins: int) -> jax.Array:
    """Return the probabilities [B, bins] of a Gaussian around each target [B]."""
    middle = (bins - 1) / 2
    place = jnp.arcsinh(distance(target, scale) / UNIT) / spacing(bins)
    edges = jnp.arange(bins + 1, dtype=target.dtype) - 0.5 - middle
    below = jax.scipy.special.erf((edges - place[:, None]) / (2**0.5 * WIDTH))
    return (below[:, 1:] - below[:, :-1]) / (below[:, -1:] - below[:, :1])


def distance(target: jax.Array, scale: ValueScale) -> jax.Array:
    """Return the signed distances [B] of targets [B] from the center, in spreads."""
    return (target - scale.center) / scale.spread


def start(reward: jax.Array, discount: jax.Array) -> jax.Array:
    """Return the first center [], from the mean reward [] and the mean discount of the next value [].

    It solves ``value = reward + discount * value``: least-squares temporal differences (Bradtke, Barto 1996)
    with one value for all states.
    """
    return reward / jnp.maximum(1 - discount, 1 / MAX_HORIZON)


def widen(scale: ValueScale, low: jax.Array, high: jax.Array) -> ValueScale:
    """Return ``scale``, widened if needed, so that its grid covers targets from ``low`` [] to ``high`` [].

    The first targets set the spread to a third of their greatest distance from the center.
    """
    far = jnp.maximum(high - scale.center, scale.center - low)
    spread = jnp.where(scale.spread == 0, far / 3, scale.spread)
    return ValueScale(scale.center, jnp.maximum(spread, jnp.maximum(far / REACH, _floor(scale.center))))


def update_scale(scale: ValueScale, mean: jax.Array, square: jax.Array) -> ValueScale:
    """Return the scale after an update whose targets' distances have moments ``mean`` and ``square`` []."""
    center = scale.center + RATE * scale.spread * mean
    variance = jnp.maximum(square - mean**2, 0)
    spread = scale.spread * jnp.sqrt(1 + RATE * (variance - 1))
    return ValueScale(center, jnp.maximum(spread, _floor(center)))


def _floor(center: jax.Array) -> jax.Array:
    """Return the least spread [] around ``center`` []."""
    return jnp.maximum(MIN_SPREAD[0], MIN_SPREAD[1] * jnp.abs(center))
