"""Rejax's own TD3 on brax's tasks (mjx), for comparison.

Needs ``pip install rejax==0.1.3 gymnax==0.0.9``. This module is imported only if they are installed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from rejax import TD3
from rejax.compat.brax2gymnax import Brax2GymnaxEnv
from rejax.networks import DeterministicPolicy, QNetwork

from td3_brax.config import Config
from td3_brax.envs.tasks.brax import brax_envs


@struct.dataclass
class Timed:
    """A brax state with the step count that rejax's loop reads."""

    inner: Any
    """State of brax."""
    time: jax.Array
    """[] Steps since the reset."""


class Task(Brax2GymnaxEnv):
    """A task of brax whose states have a step count."""

    def step_env(self, key: Any, state: Timed, action: jax.Array, params: Any) -> Any:
        """Step; return observation, state, reward, whether the episode ended, and further information."""
        obs, inner, reward, done, info = super().step_env(key, state.inner, action, params)
        return obs, Timed(inner, state.time + 1), reward, done, info

    def reset_env(self, key: Any, params: Any) -> Any:
        """Reset; return observation and state."""
        obs, inner = super().reset_env(key, params)
        return obs, Timed(inner, jnp.zeros((), int))

    def get_obs(self, state: Timed, *_: Any, **__: Any) -> jax.Array:
        """Return the observation of a state."""
        obs: jax.Array = state.inner.obs
        return obs

    def is_terminal(self, state: Timed, *_: Any, **__: Any) -> jax.Array:
        """Return whether the episode has ended."""
        done: jax.Array = state.inner.done.astype(bool)
        return done


def trainer(name: str, limit: int, hidden_sizes: tuple[int, ...], **settings: Any) -> Any:
    """Make rejax's TD3 for brax's task ``name`` with time limit ``limit`` and ReLU networks."""
    task = Task(brax_envs.create(name, backend="mjx", episode_length=limit, auto_reset=False))
    actions = task.action_space(task.default_params).shape[0]
    algorithm = TD3.create(env=task, env_params=task.default_params, **settings)
    return algorithm.replace(  # rejax's own networks refuse its options for these
        actor=DeterministicPolicy(actions, (-1, 1), hidden_layer_sizes=hidden_sizes, activation=nn.relu),
        critic=QNetwork(hidden_layer_sizes=hidden_sizes, activation=nn.relu),
    )


def trainer_for(config: Config, capacity: int) -> Any:
    """Make rejax's TD3 with the options of a run and a replay of ``capacity`` transitions."""
    return trainer(
        config.env,
        config.episode_limit,
        config.hidden_sizes,
        num_envs=config.num_envs,
        num_epochs=max(round(config.updates_per_env_step * config.num_envs), 1),
        batch_size=config.batch_size,
        buffer_size=capacity,
        gamma=config.gamma,
        polyak=1 - config.tau,
        policy_delay=config.policy_delay,
        normalize_observations=config.normalize_obs,
    )


def update(algorithm: Any, state: Any) -> Any:
    """Do ``policy_delay`` updates of the critics, each on a new batch, and one of the actor and targets."""

    def critics(state: Any, _: None) -> tuple[Any, Any]:
        rng, key = jax.random.split(state.rng)
        batch = state.replay_buffer.sample(algorithm.batch_size, key)
        return algorithm.update_critic(state.replace(rng=rng), batch), batch

    state, batches = jax.lax.scan(critics, state, length=algorithm.policy_delay)
    state = algorithm.update_actor(state, jax.tree.map(lambda x: x[-1], batches))

    def follow(new: Any, old: Any) -> Any:
        return algorithm.maybe_update_target_params(new, old, 1, 0)

    return state.replace(
        critic_target_params=follow(state.critic_ts.params, state.critic_target_params),
        actor_target_params=follow(state.actor_ts.params, state.actor_target_params),
    )
