"""What a critic's outputs stand for: a value, as in the paper, or a histogram over a range of values.

The histogram is trained towards a Gaussian around the scalar target by cross-entropy (HL-Gauss: Imani,
White 2018; Farebrother et al. 2024, arXiv 2403.03950, section 3), so that the target of TD3 stays what it
is, and the size of the rewards no longer sets the size of the gradients. Its range follows the targets.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

WIDTH = 0.75
"""Standard deviation of the Gaussian, in bins (section 3 of the paper above)."""
MARGIN = 0.1
"""Room left on either side, as a share of the targets' spread."""
GROW, SHRINK = 1e-2, 1e-4
"""Share of the way that the range goes with each update: soon to take new values in, late to drop old."""


def value(out: jax.Array, value_range: jax.Array) -> jax.Array:
    """Outputs [..., K] -> values [...]: the output itself for one, the histogram's mean for more."""
    bins = out.shape[-1]
    if bins == 1:
        return out[..., 0]
    low, high = value_range
    centers = low + (high - low) * (jnp.arange(bins, dtype=out.dtype) + 0.5) / bins
    return jax.nn.softmax(out) @ centers


def loss(out: jax.Array, target: jax.Array, value_range: jax.Array) -> jax.Array:
    """Outputs [..., B, K] and targets [B] -> squared errors [..., B], or cross-entropies for K above 1."""
    if out.shape[-1] == 1:
        return (out[..., 0] - target) ** 2
    return -jnp.sum(histogram(target, value_range, out.shape[-1]) * jax.nn.log_softmax(out), axis=-1)


def histogram(target: jax.Array, value_range: jax.Array, bins: int) -> jax.Array:
    """[B] -> [B, bins] shares of a Gaussian around each target; those outside the range move to its edge."""
    low, high = value_range
    width = (high - low) / bins
    edges = low + width * jnp.arange(bins + 1, dtype=target.dtype)
    distance = edges - jnp.clip(target, low, high)[:, None]
    below = jax.scipy.special.erf(distance / (2**0.5 * WIDTH * width))
    return (below[:, 1:] - below[:, :-1]) / (below[:, -1:] - below[:, :1])


def extremes(target: jax.Array) -> jax.Array:
    """[2] least and most of the targets [B]."""
    # One reduction, which on a GPU is one operation.
    return jnp.stack([-target, target]).max(axis=1) * jnp.array([-1, 1])


def follow(value_range: jax.Array, seen: jax.Array) -> jax.Array:
    """The range [2] after a step towards the extremes [2] of the targets."""
    least, most = seen
    room = MARGIN * (most - least)
    step = jnp.stack([least - room, most + room]) - value_range
    outwards = step * jnp.array([-1, 1]) > 0
    return value_range + jnp.where(outwards, GROW, SHRINK) * step


def outside(target: jax.Array, value_range: jax.Array) -> jax.Array:
    """[B] 1 for each of the targets [B] beyond the range, else 0."""
    return ((target < value_range[0]) | (target > value_range[1])).astype(target.dtype)
