"""Base class of Gymnasium's MuJoCo tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.envs.physics.mjx import dynamics
from td3_brax.envs.physics.mjx.dynamics import Forward, Physics
from td3_brax.envs.physics.mjx.patched import precise
from td3_brax.envs.physics.rigid.physics import DynamicsOutput, RigidPhysics
from td3_brax.envs.physics.rigid.unsupported import unsupported_features
from td3_brax.envs.task import Step
from td3_brax.envs.tasks.gymnasium_models import arguments, model_of
from td3_brax.option import ConfigError


@flax.struct.dataclass
class State:
    """The state of one environment, less than 1 KB: only what the next step reads."""

    physics: dynamics.State
    seen: Any
    """The arrays that the task reads from the last evaluation of the dynamics."""


class GymnasiumTask:
    """A task of ``gymnasium.envs.mujoco`` as a :class:`td3_brax.envs.task.Task`.

    Args:
        name: the name that Gymnasium registers, such as ``Ant-v5``.
        args: constructor arguments of Gymnasium's class, by name.
        physics: ``fast`` for :class:`RigidPhysics`, ``mjx`` for :class:`Physics`, or ``auto`` for fast
            physics if they support the model.
    Raises:
        ConfigError: the class does not take an argument, the model is not the tested one, or the fast physics
            do not support it.
    """

    open_loops = False
    xml = ""
    frame_skip = 5
    """MuJoCo time steps per environment step. Used for version 4, where it is not an argument."""
    contacts: int | None = None
    """Largest number of active contacts in :class:`Physics`, if it is below that of possible contacts."""
    iterations = 4
    """Newton iterations in :class:`Physics`."""

    def __init__(self, name: str, args: Mapping[str, Any], physics: str = "auto") -> None:
        self.name = name
        self.v4 = name.endswith("-v4")
        self.args = SimpleNamespace(**{"frame_skip": self.frame_skip} | arguments(name, args))
        self.model = model_of(name, "walker2d_v5.xml" if name == "Walker2d-v5" else self.xml)
        missing = unsupported_features(self.model)
        if missing and physics == "fast":
            raise ConfigError(
                "physics", physics, f"does not support {name}: a model with {', '.join(missing)}"
            )
        self.physics: Physics | RigidPhysics
        if missing or physics == "mjx":
            self.physics = Physics(self.model, self.contacts, self.iterations)
        else:
            self.physics = RigidPhysics(self.model)
        self.dt = self.model.opt.timestep * self.args.frame_skip
        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        self.action_low, self.action_high = low, high
        self.action_size = self.model.nu
        self.obs_size = int(jax.eval_shape(self.reset, jax.random.key(0))[1].shape[0])

    def reset(self, key: jax.Array) -> tuple[State, jax.Array]:
        """See :class:`td3_brax.envs.task.Task`."""
        qpos, qvel = self.draw_initial_state(key)
        with precise():
            return self.set_state(qpos, qvel)

    def set_state(self, qpos: jax.Array, qvel: jax.Array) -> tuple[State, jax.Array]:
        """Return the state and observation after Gymnasium's ``set_state``."""
        state = dynamics.State(qpos=qpos, qvel=qvel, qacc=jnp.zeros_like(qvel))
        seen = self.read_after_reset(
            self.read_dynamics(self.physics.forward(state, jnp.zeros(self.action_size)))
        )
        return State(physics=state, seen=seen), self.observe(state, seen)

    def step(self, state: State, action: jax.Array) -> Step:
        """See :class:`td3_brax.envs.task.Task`."""
        low, high = self.action_low, self.action_high
        control = low + (action + 1) * (0.5 * (high - low))
        with precise():
            frames = int(self.args.frame_skip)
            after, seen = self.physics.step(state.physics, state.seen, control, self.read_dynamics, frames)
            new = State(physics=after, seen=seen)
            reward, terminated = self.reward_and_end(state, new, control)
        return Step(state=new, obs=self.observe(after, seen), reward=reward, terminated=terminated)

    def shown(self, state: State, action: jax.Array) -> tuple[Step, jax.Array]:
        """See :class:`td3_brax.envs.task.Task`."""
        out = self.step(state, action)
        return out, out.state.physics.qpos

    # Subclasses override these methods.

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw initial positions [nq] and velocities [nv]."""
        return self.draw_near_start(key, self.args.reset_noise_scale, jax.random.normal)

    def read_dynamics(self, out: Forward | DynamicsOutput) -> Any:
        """Select what observation, reward and termination need from the results of the dynamics."""
        return ()

    def read_after_reset(self, seen: Any) -> Any:
        """Return ``seen`` with the values that it has after a reset."""
        return seen

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Return the observation [O]."""
        raise NotImplementedError

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return reward [] and termination [] of a step from ``old`` to ``new`` with ``control`` [nu]."""
        raise NotImplementedError

    # Several subclasses share these methods.

    def draw_near_start(
        self, key: jax.Array, scale: float, velocities: Callable[..., jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Draw positions uniformly around the model's, and velocities with the function ``velocities``."""
        for_qpos, for_qvel = jax.random.split(key)
        qpos = jax.random.uniform(for_qpos, (self.model.nq,), minval=-scale, maxval=scale)
        qvel = scale * velocities(for_qvel, (self.model.nv,))
        return jnp.asarray(self.model.qpos0, jnp.float32) + qpos, qvel

    def health_outcome(self, healthy: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the reward for being healthy, and whether the episode terminates."""
        ends = self.args.terminate_when_unhealthy
        paid = jnp.ones((), bool) if self.v4 and ends else healthy
        return paid * self.args.healthy_reward, ~healthy & ends


def symmetric(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw uniformly from [-1, 1]."""
    return jax.random.uniform(key, shape, minval=-1, maxval=1)


def within(value: jax.Array, limits: tuple[float, float]) -> jax.Array:
    """Return whether ``value`` lies strictly between ``limits``."""
    return (limits[0] < value) & (value < limits[1])
