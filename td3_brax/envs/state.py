"""The pytrees of environments. Shapes: N environments, A action, O obs."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Transition:
    """One step of an environment; any leading axes."""

    obs: jax.Array
    """[..., O] what the action was chosen from (not normalised)."""
    action: jax.Array
    """[..., A] in [-1, 1]."""
    reward: jax.Array
    """[...] of the step."""
    next_obs: jax.Array
    """[..., O] what the step led to: the episode's true last observation, never the one after a reset."""
    terminated: jax.Array
    """[...] 1.0 where the task ended the episode: no value follows."""
    truncated: jax.Array
    """[...] 1.0 where the time limit cut the episode: its value goes on."""
    valid: jax.Array
    """[...] 0.0 for a row that holds no experience (broken physics, waiting for a reset): all zeros."""


@flax.struct.dataclass
class EnvState:
    """N environments of one member, and a fresh initial state for each to go on from."""

    task: Any
    """Task states, leaves [N, ...]."""
    obs: jax.Array
    """[N, O] what the policy sees next."""
    steps: jax.Array
    """[N] int32, steps of the present episode."""
    limit: jax.Array
    """[N] int32, the step at which it is truncated."""
    episode_return: jax.Array
    """[N] summed reward of the present episode."""
    waiting: jax.Array
    """[N] bool, ended, without a fresh state to go on from until the next refill."""
    fresh_task: Any
    """Drawn initial states, leaves [N, ...], each used at most once."""
    fresh_obs: jax.Array
    """[N, O] their observations."""
    fresh: jax.Array
    """[N] bool, not used yet."""


@flax.struct.dataclass
class EpisodeStats:
    """Sums over the environments of a vector step, or over more of them."""

    episodes: jax.Array
    """[] int32, episodes that ended by termination or truncation."""
    return_sum: jax.Array
    """[] their summed returns."""
    length_sum: jax.Array
    """[] int32, their summed lengths."""
    terminated: jax.Array
    """[] int32, how many of them terminated."""
    quarantined: jax.Array
    """[] int32, environments whose physics became non-finite."""
    waited: jax.Array
    """[] int32, environment steps lost to waiting for a fresh state."""
