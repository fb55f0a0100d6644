"""The pytrees of the training program.

Shapes: M members, N environments of each, C replay rows, B transitions of a batch, A action size,
O observation size. Functions of a single member take the same dataclasses without the leading M.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax

from td3_brax.envs.state import EnvState, EpisodeStats

Params = Any
"""A flax parameter tree, or the same parameters packed into one array (``packing.py``)."""


@flax.struct.dataclass
class Batch:
    """Transitions for the learner. Each spans ``steps`` environment steps (one in the paper)."""

    obs: jax.Array
    """[..., O] before the first step; normalised if the networks expect it, like ``next_obs``."""
    action: jax.Array
    """[..., A] of the first step."""
    reward: jax.Array
    """[...] discounted sum of the rewards of all steps."""
    next_obs: jax.Array
    """[..., O] after the last step."""
    terminated: jax.Array
    """[...] 1.0 where the last step terminated the episode."""
    steps: jax.Array
    """[...] number of steps: less than ``n_step`` where the episode ends or the stored experience does."""


@flax.struct.dataclass
class Replay:
    """The replay memory, a ring. Each vector step is written at ``position``, which all members share."""

    rows: jax.Array
    """[C, M, R] packed transitions; C is a whole number of vector steps."""
    position: jax.Array
    """[] int32, next row to write."""
    size: jax.Array
    """[M] int32, rows written so far, at most C."""


@flax.struct.dataclass
class ObsStats:
    """Observation statistics: running mean and variance of the observations collected."""

    count: jax.Array
    """[] int32, number of observations seen."""
    mean: jax.Array
    """[O]."""
    variance: jax.Array
    """[O]."""


@flax.struct.dataclass
class ValueScale:
    """Position and width of the grid of values that the critics' atoms represent (``values.py``).

    Both fields are 0 before the first target.
    """

    center: jax.Array
    """[] value in the middle of the grid; it follows the mean of the targets."""
    spread: jax.Array
    """[] unit of distance from the center; it follows the standard deviation of the targets."""


@flax.struct.dataclass
class Learner:
    """Parameters and optimiser states of TD3. Leaves of the critics have a leading axis of critics."""

    actor: Params
    actor_target: Params
    actor_eval: Params
    """Actor that is evaluated and saved: a slow average of ``actor``, or equal to it if ``eval_tau`` is 1."""
    critic: Params
    critic_target: Params
    actor_opt: Any
    critic_opt: Any
    value_scale: ValueScale
    """Value scale of ``critic``."""
    value_scale_target: ValueScale
    """Value scale of ``critic_target``."""


@flax.struct.dataclass
class Hyper:
    """Hyperparameters that may differ between the members of one program. All are scalars."""

    gamma: jax.Array
    tau: jax.Array
    actor_lr: jax.Array
    critic_lr: jax.Array
    lr_decay: jax.Array
    exploration_noise: jax.Array
    exploration_noise_spread: jax.Array
    target_noise: jax.Array
    target_noise_clip: jax.Array
    eval_tau: jax.Array
    warmup_env_steps: jax.Array
    """int32: actions are uniformly random before this environment step."""
    learn_from: jax.Array
    """int32: updates take effect after this environment step."""
    total_env_steps: jax.Array
    """int32: length of the run, for the decay of the learning rates."""


@flax.struct.dataclass
class UpdateStats:
    """Statistics of updates: sums over the updates that took effect, or their means in :class:`Metrics`."""

    made: jax.Array
    """int32, number of critic updates; always a sum."""
    actor_made: jax.Array
    """int32, number of actor updates; always a sum."""

    critic_loss: jax.Array
    actor_loss: jax.Array
    q_mean: jax.Array
    """Mean value that the critics predict for the batch."""
    target_q_mean: jax.Array
    """Mean target of the batch."""
    skipped: jax.Array
    """int32, number of updates undone because a gradient was not finite; always a sum."""


@flax.struct.dataclass
class Member:
    """The state of one run, except its replay. In a :class:`TrainState` every leaf has a leading M."""

    env: EnvState
    learner: Learner
    obs_stats: ObsStats
    hyper: Hyper
    key: jax.Array
    """[] PRNG key."""
    env_steps: jax.Array
    """[] int32, environment steps so far: vector steps times N."""
    updates: jax.Array
    """[] int32, critic updates so far."""


@flax.struct.dataclass
class TrainState:
    """The whole state of a program: M members, and the replay that holds their transitions."""

    members: Member
    replay: Replay

    @property
    def num_members(self) -> int:
        """Number of members, M."""
        return int(self.replay.size.shape[0])


@flax.struct.dataclass
class Metrics:
    """The scalars that a chunk returns to the host, for each member: leaves [M]."""

    env_steps: jax.Array
    updates: jax.Array
    episodes: EpisodeStats
    update: UpdateStats
