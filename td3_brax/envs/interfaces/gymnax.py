"""Our tasks as gymnax's environments."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from td3_brax.envs.interfaces import guarded
from td3_brax.envs.task import Task
from td3_brax.option import ConfigError


@flax.struct.dataclass
class EnvParams:
    """Parameters that may differ from one call to the next."""

    max_steps_in_episode: Any = 1000
    """[] Steps after which an episode is truncated."""


@flax.struct.dataclass
class EnvState:
    """The state of one environment."""

    time: jax.Array
    """[] int32. Steps taken in the episode."""
    task: Any
    """The state of the task."""
    obs: jax.Array
    """[O] The observation of this state."""
    terminated: jax.Array
    """[] bool. Whether the task has ended the episode in this state."""


class GymnaxEnv:
    """A task with the methods of ``gymnax.environments.environment.Environment``, actions in [-1, 1].

    :meth:`step` begins the next episode itself, each from a newly drawn state. Its ``info`` tells how an
    episode ended: ``terminated`` (do not bootstrap), ``truncated`` (the time limit: bootstrap from
    ``final_observation``), ``discount`` (0 where terminated, else 1), ``broken``. ``final_observation`` is
    the observation after the step, before a reset.

    If the physics break, the step returns a reward of 0 and ends the episode as truncated, with the
    observation before the step as the final one.

    Args:
        task: the task.
        time_limit: default of ``max_steps_in_episode``.
    """

    def __init__(self, task: Task, time_limit: int) -> None:
        self.task, self._time_limit = task, time_limit

    @property
    def default_params(self) -> EnvParams:
        """Parameters with the task's own time limit."""
        return EnvParams(max_steps_in_episode=self._time_limit)

    @partial(jax.jit, static_argnames="self")
    def reset(self, key: jax.Array, params: EnvParams | None = None) -> tuple[jax.Array, EnvState]:
        """Draw an initial state, and return its observation [O] and the state."""
        return self.reset_env(key, self.default_params if params is None else params)

    @partial(jax.jit, static_argnames="self")
    def step(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams | None = None
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Take one step with an action [A] in [-1, 1]. Where the episode ends, begin the next one.

        Returns:
            The observation [O] to act on next, the state, the reward [], whether the episode has ended [],
            and ``info``.
        """
        params = self.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        out = self.step_env(step_key, state, action, params)
        done = out[3]
        fresh = self.reset_env(reset_key, params)
        obs, state = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, out[:2])
        return obs, state, *out[2:]

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Do the same as :meth:`reset`."""
        task, obs = guarded.reset(self.task, key)
        return obs, EnvState(
            time=jnp.zeros((), jnp.int32), task=task, obs=obs, terminated=jnp.zeros((), bool)
        )

    def step_env(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Do the same as :meth:`step`, without beginning the next episode."""
        out = guarded.step(self.task, state.task, state.obs, jnp.reshape(action, (self.task.action_size,)))
        after = EnvState(time=state.time + 1, task=out.task, obs=out.obs, terminated=out.terminated)
        truncated = out.broken | (after.time >= params.max_steps_in_episode)
        info = {
            "terminated": out.terminated,
            "truncated": truncated,
            "final_observation": out.obs,
            "discount": self.discount(after, params),
            "broken": out.broken,
        }
        return out.obs, after, out.reward, out.terminated | truncated, info

    def get_obs(self, state: EnvState, params: EnvParams | None = None, key: Any = None) -> jax.Array:
        """Return the observation [O] of a state."""
        return state.obs

    def is_terminal(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Return whether the episode has ended in this state, by the task or by the time limit."""
        return state.terminated | (state.time >= params.max_steps_in_episode)

    def discount(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Return 0 if the task has ended the episode in this state, else 1."""
        return 1 - state.terminated.astype(jnp.float32)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def num_actions(self) -> int:
        """Size of an action."""
        return self.task.action_size

    def action_space(self, params: EnvParams | None = None) -> Any:
        """Return the ``gymnax`` space of actions."""
        return _spaces().Box(-1.0, 1.0, (self.task.action_size,))

    def observation_space(self, params: EnvParams | None = None) -> Any:
        """Return the ``gymnax`` space of observations."""
        return _spaces().Box(-jnp.inf, jnp.inf, (self.task.obs_size,))

    def __deepcopy__(self, memo: Any) -> GymnaxEnv:
        """Return the environment itself, which nothing changes. Trainers copy their options, this one too."""
        return self


def _spaces() -> Any:
    """Return gymnax's module of spaces: the only part of this interface that needs gymnax."""
    try:
        from gymnax.environments import spaces
    except ImportError as error:
        raise ConfigError("kind", "gymnax", f"needs gymnax: pip install 'gymnax<1' ({error})") from None
    return spaces
