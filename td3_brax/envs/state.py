"""Pytrees of the environments. Shapes: N environments, A action size, O observation size."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Transition:
    """One environment step, with any leading axes."""

    obs: jax.Array
    """[..., O] The observation that the action was chosen from, not normalised."""
    action: jax.Array
    """[..., A] The action, in [-1, 1]."""
    reward: jax.Array
    """[...] The reward of the step."""
    next_obs: jax.Array
    """[..., O] The observation after the step: the true last one of an episode, never that of a reset."""
    terminated: jax.Array
    """[...] 1.0 if the task ended the episode: the target does not bootstrap."""
    truncated: jax.Array
    """[...] 1.0 if the time limit ended the episode: the target still bootstraps."""
    valid: jax.Array
    """[...] 0.0 for a row without experience (quarantined or waiting environment), which is all zeros."""


@flax.struct.dataclass
class EnvState:
    """N environments of one member, each with one fresh initial state in reserve."""

    task: Any
    """States of the task, leaves [N, ...]."""
    obs: jax.Array
    """[N, O] The observations that the policy acts on next."""
    steps: jax.Array
    """[N] int32. Environment steps taken in the current episode."""
    limit: jax.Array
    """[N] int32. The step at which the current episode is truncated."""
    episode_return: jax.Array
    """[N] Sum of rewards in the current episode."""
    waiting: jax.Array
    """[N] bool. The episode has ended and no fresh state is left: waiting for the next refill."""
    fresh_task: Any
    """Fresh initial states, leaves [N, ...]. Each is used at most once."""
    fresh_obs: jax.Array
    """[N, O] The observations of the fresh states."""
    fresh: jax.Array
    """[N] bool. Whether the fresh state is still unused."""


@flax.struct.dataclass
class EpisodeStats:
    """Sums over the environments of one or more vector steps."""

    episodes: jax.Array
    """[] int32. Episodes that ended by termination or truncation."""
    return_sum: jax.Array
    """[] Sum of the returns of these episodes."""
    length_sum: jax.Array
    """[] int32. Sum of the lengths of these episodes."""
    terminated: jax.Array
    """[] int32. Number of these episodes that ended by termination."""
    quarantined: jax.Array
    """[] int32. Environments that were quarantined because their physics became non-finite."""
    waited: jax.Array
    """[] int32. Environment steps lost while waiting for a fresh state."""
