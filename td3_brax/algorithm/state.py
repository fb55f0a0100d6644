"""The pytrees that flow. Shapes: M members, N environments each, C replay rows, B batch, A action, O obs.

Functions of one member see the same nouns without the leading M.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax

from td3_brax.envs.state import EnvState, EpisodeStats

Params = Any
"""A flax parameter tree."""


@flax.struct.dataclass
class Batch:
    """What the learner takes: transitions over ``steps`` steps of an environment (one in the paper)."""

    obs: jax.Array
    """[..., O], normalised if the networks take it so; ``next_obs`` too."""
    action: jax.Array
    """[..., A] the first step's."""
    reward: jax.Array
    """[...] discounted sum over the steps."""
    next_obs: jax.Array
    """[..., O] what the last step led to."""
    terminated: jax.Array
    """[...] 1.0 where the last step terminated the episode."""
    steps: jax.Array
    """[...] how many there are: fewer than asked for at an episode's end and at the ring's newest row."""


@flax.struct.dataclass
class Replay:
    """The ring. Written a vector step at a time at ``position``, which all members share."""

    rows: jax.Array
    """[C, M, R] packed transitions; C is a whole number of vector steps."""
    position: jax.Array
    """[] int32, next row to write."""
    size: jax.Array
    """[M] int32, rows written so far, at most C."""


@flax.struct.dataclass
class ObsStats:
    """Running mean and variance of the observations collected."""

    count: jax.Array
    """[] int32, observations seen."""
    mean: jax.Array
    """[O]."""
    variance: jax.Array
    """[O]."""


@flax.struct.dataclass
class ValueScale:
    """Where the critics' atoms lie (``values.py``); zeros before the first target."""

    center: jax.Array
    """[] the value in their middle; it follows the targets' mean."""
    spread: jax.Array
    """[] it follows the targets' standard deviation."""


@flax.struct.dataclass
class Learner:
    """TD3's parameters. Critic leaves have a leading axis of critics."""

    actor: Params
    actor_target: Params
    actor_eval: Params
    """What is evaluated and saved: a slower average of the actor, or the actor itself."""
    critic: Params
    critic_target: Params
    actor_opt: Any
    critic_opt: Any
    value_scale: ValueScale
    """Of ``critic``."""
    value_scale_target: ValueScale
    """Of ``critic_target``."""


@flax.struct.dataclass
class Hyper:
    """What may differ between members of one program; all scalars."""

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
    """int32: actions are uniform before this environment step."""
    learn_from: jax.Array
    """int32: updates count after this environment step."""
    total_env_steps: jax.Array
    """int32: length of the run, for the decay."""


@flax.struct.dataclass
class UpdateStats:
    """Sums over the updates that were made, or means where a chunk reports them."""

    made: jax.Array
    """int32, updates of the critics; always a sum."""
    actor_made: jax.Array
    """int32, updates of the actor; always a sum."""

    critic_loss: jax.Array
    actor_loss: jax.Array
    q_mean: jax.Array
    """The critics' value of the batch."""
    target_q_mean: jax.Array
    skipped: jax.Array
    """int32, updates that were not made since a gradient among them was not finite; always a sum."""


@flax.struct.dataclass
class Member:
    """One run: all of it but its replay. In a :class:`TrainState` every leaf has a leading M."""

    env: EnvState
    learner: Learner
    obs_stats: ObsStats
    hyper: Hyper
    key: jax.Array
    """[] PRNG key."""
    env_steps: jax.Array
    """[] int32, vector steps times N."""
    updates: jax.Array
    """[] int32, critic updates."""


@flax.struct.dataclass
class TrainState:
    """Everything that a program is made of: M members, and the ring that holds their transitions."""

    members: Member
    replay: Replay

    @property
    def num_members(self) -> int:
        """M."""
        return int(self.replay.size.shape[0])


@flax.struct.dataclass
class Metrics:
    """What a chunk tells the host, per member: leaves [M]."""

    env_steps: jax.Array
    updates: jax.Array
    episodes: EpisodeStats
    update: UpdateStats
