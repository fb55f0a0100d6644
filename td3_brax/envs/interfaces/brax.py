"""Our tasks as environments of brax."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from td3_brax.envs.interfaces import guarded
from td3_brax.envs.suppress import suppress_output
from td3_brax.envs.task import Task

with suppress_output():
    from brax.envs import Env, State


class BraxEnv(Env):
    """A task as a ``brax.envs.Env``: one environment, actions in [-1, 1]. Brax's wrappers batch and reset it.

    ``done`` means terminated. The time limit is the job of brax's ``EpisodeWrapper``, which also sets
    ``info["truncation"]``. ``info["final_observation"]`` is the observation after the step, even where
    ``AutoResetWrapper`` has replaced ``obs``.

    If the physics break, the step returns the observation before, a reward of 0 and ``done``, and
    ``metrics["broken"]`` is 1: without a wrapper that truncates, brax has no other way to end an episode.

    ``pipeline_state`` is the state of the task, not one of brax's, so brax's own rendering and randomisation
    of the model do not work on it.

    Args:
        task: the task.
        backend: name of the physics, for those who ask.
    """

    def __init__(self, task: Task, backend: str = "mjx") -> None:
        self.task, self._backend = task, backend

    def reset(self, rng: jax.Array) -> State:
        """Draw an initial state."""
        task, obs = guarded.reset(self.task, rng)
        zero = jnp.zeros((), jnp.float32)
        return State(
            pipeline_state=task,
            obs=obs,
            reward=zero,
            done=zero,
            metrics={"broken": zero},
            info={"final_observation": obs},
        )

    def step(self, state: State, action: jax.Array) -> State:
        """Take one step with an action [A] in [-1, 1]."""
        out = guarded.step(self.task, state.pipeline_state, state.obs, action)
        return state.replace(
            pipeline_state=out.task,
            obs=out.obs,
            reward=out.reward,
            done=(out.terminated | out.broken).astype(jnp.float32),
            metrics={**state.metrics, "broken": out.broken.astype(jnp.float32)},
            info={**state.info, "final_observation": out.obs},
        )

    @property
    def observation_size(self) -> int:
        """Size of an observation."""
        return self.task.obs_size

    @property
    def action_size(self) -> int:
        """Size of an action."""
        return self.task.action_size

    @property
    def backend(self) -> str:
        """Name of the physics."""
        return self._backend

    @property
    def dt(self) -> float:
        """Simulated seconds per step."""
        return self.task.dt
