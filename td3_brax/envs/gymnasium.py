"""Gymnasium's MuJoCo tasks on the device: the models, rewards, limits and arguments of the installed package.

What a task is follows Gymnasium's code line by line; where that reads results of MuJoCo's last evaluation,
which lags behind the positions by one time step or Runge-Kutta stage, so does this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.config import ConfigError
from td3_brax.envs import physics
from td3_brax.envs.installed import arguments, model_of
from td3_brax.envs.mjx import precise
from td3_brax.envs.physics import Forward, Physics
from td3_brax.envs.rigid.lacks import lacks
from td3_brax.envs.rigid.physics import RigidPhysics, Seen
from td3_brax.envs.task import Step


@flax.struct.dataclass
class State:
    """What the next step reads: less than 1 KB for each environment."""

    physics: physics.State
    seen: Any
    """What the task reads of the last evaluation of the dynamics, arrays of its own choice."""


class GymnasiumTask:
    """A task of ``gymnasium.envs.mujoco`` as a :class:`td3_brax.envs.task.Task`.

    Args:
        name: as Gymnasium registers it, such as ``Ant-v5``.
        args: constructor arguments of Gymnasium's class, by name.
        physics: ``fast`` for :class:`RigidPhysics`, ``mjx`` for :class:`Physics`; ``auto``: fast where that
            covers the model.
    Raises:
        ConfigError: an argument that the class does not take, a model other than the tested one, or fast
            physics that don't cover it.
    """

    open_loops = False
    xml = ""
    frame_skip = 5
    """Of version 4, where it is no argument."""
    contacts: int | None = None
    """Most contacts that are active at a time, where more could be."""
    iterations = 4
    """Of Newton's method in :class:`Physics`."""

    def __init__(self, name: str, args: Mapping[str, Any], physics: str = "auto") -> None:
        self.name = name
        self.v4 = name.endswith("-v4")
        self.args = SimpleNamespace(**{"frame_skip": self.frame_skip} | arguments(name, args))
        self.model = model_of(name, "walker2d_v5.xml" if name == "Walker2d-v5" else self.xml)
        missing = lacks(self.model)
        if missing and physics == "fast":
            raise ConfigError("physics", physics, f"does not cover {name}: a model with {', '.join(missing)}")
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
        qpos, qvel = self.draw(key)
        with precise():
            return self.start(qpos, qvel)

    def start(self, qpos: jax.Array, qvel: jax.Array) -> tuple[State, jax.Array]:
        """The state and observation of Gymnasium's ``set_state``."""
        state = physics.State(qpos=qpos, qvel=qvel, qacc=jnp.zeros_like(qvel))
        seen = self.before(self.see(self.physics.forward(state, jnp.zeros(self.action_size))))
        return State(physics=state, seen=seen), self.observe(state, seen)

    def step(self, state: State, action: jax.Array) -> Step:
        """See :class:`td3_brax.envs.task.Task`."""
        low, high = self.action_low, self.action_high
        control = low + (action + 1) * (0.5 * (high - low))
        with precise():
            frames = int(self.args.frame_skip)
            after, seen = self.physics.step(state.physics, state.seen, control, self.see, frames)
            new = State(physics=after, seen=seen)
            reward, terminated = self.judge(state, new, control)
        return Step(state=new, obs=self.observe(after, seen), reward=reward, terminated=terminated)

    def shown(self, state: State, action: jax.Array) -> tuple[Step, jax.Array]:
        """See :class:`td3_brax.envs.task.Task`."""
        out = self.step(state, action)
        return out, out.state.physics.qpos

    # What a task is, for those below to say.

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Initial positions [nq] and velocities [nv]."""
        return self.draw_around(key, self.args.reset_noise_scale, jax.random.normal)

    def see(self, out: Forward | Seen) -> Any:
        """What observation, reward or termination read of the dynamics."""
        return ()

    def before(self, seen: Any) -> Any:
        """``seen`` as it is after a reset."""
        return seen

    def observe(self, state: physics.State, seen: Any) -> jax.Array:
        """The observation [O]."""
        raise NotImplementedError

    def judge(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reward [] and termination [] of a step from ``old`` to ``new`` with ``control`` [nu]."""
        raise NotImplementedError

    # What several of them share.

    def draw_around(
        self, key: jax.Array, scale: float, velocities: Callable[..., jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Uniform positions around the model's own, and velocities of one distribution or the other."""
        for_qpos, for_qvel = jax.random.split(key)
        qpos = jax.random.uniform(for_qpos, (self.model.nq,), minval=-scale, maxval=scale)
        qvel = scale * velocities(for_qvel, (self.model.nv,))
        return jnp.asarray(self.model.qpos0, jnp.float32) + qpos, qvel

    def alive(self, healthy: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The reward for being healthy, and whether the episode terminates."""
        ends = self.args.terminate_when_unhealthy
        paid = jnp.ones((), bool) if self.v4 and ends else healthy
        return paid * self.args.healthy_reward, ~healthy & ends


def symmetric(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform in [-1, 1]."""
    return jax.random.uniform(key, shape, minval=-1, maxval=1)


def within(value: jax.Array, limits: tuple[float, float]) -> jax.Array:
    """Whether ``value`` lies strictly between ``limits``."""
    return (limits[0] < value) & (value < limits[1])


class Ant(GymnasiumTask):
    """Run along x on four legs. Its velocity is that of the torso's lagging position."""

    xml = "ant.xml"
    contacts = 12
    iterations = 6

    def see(self, out: Forward | Seen) -> Any:
        """The torso's position, and where they count the clipped contact forces of each body."""
        body = getattr(self.args, "main_body", 1)
        torso = self.model.body(body).id
        position = out.xpos[torso, :2]
        if not self.feels:
            return position, jnp.zeros((0, 6))
        return position, jnp.clip(out.cfrc_ext, *self.args.contact_force_range)

    @property
    def feels(self) -> bool:
        """Whether contact forces are in observation or cost."""
        if self.v4:
            return bool(self.args.use_contact_forces)
        return bool(self.args.include_cfrc_ext_in_observation or self.args.contact_cost_weight)

    def before(self, seen: Any) -> Any:
        """MuJoCo has computed no contact forces yet."""
        return seen[0], jnp.clip(jnp.zeros_like(seen[1]), *self.args.contact_force_range)

    def observe(self, state: physics.State, seen: Any) -> jax.Array:
        """Positions without x and y, velocities, contact forces."""
        first = 2 * self.args.exclude_current_positions_from_observation
        parts = [state.qpos[first:], state.qvel]
        if self.v4 and self.args.use_contact_forces:
            parts.append(seen[1].ravel())
        elif not self.v4 and self.args.include_cfrc_ext_in_observation:
            parts.append(seen[1][1:].ravel())
        return jnp.concatenate(parts)

    def judge(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Forward speed, health, costs of control and contact."""
        forward = (new.seen[0][0] - old.seen[0][0]) / self.dt
        low, high = self.args.healthy_z_range
        z = new.physics.qpos[2]
        paid, terminated = self.alive((low <= z) & (z <= high))
        cost = self.args.ctrl_cost_weight * jnp.sum(control**2)
        if self.feels:
            cost += self.args.contact_cost_weight * jnp.sum(new.seen[1] ** 2)
        return forward * getattr(self.args, "forward_reward_weight", 1) + paid - cost, terminated


class Runner(GymnasiumTask):
    """Move along x, paid by the change of the first position."""

    skipped = 1
    """Positions that the observation leaves out."""
    speed_limit = np.inf
    """Velocities are clipped to it in the observation."""

    def healthy(self, state: physics.State) -> jax.Array | None:
        """[] or None where the task never ends and pays nothing for it."""
        return None

    def observe(self, state: physics.State, seen: Any) -> jax.Array:
        """Positions and velocities."""
        first = self.skipped * self.args.exclude_current_positions_from_observation
        qvel = jnp.clip(state.qvel, -self.speed_limit, self.speed_limit)
        return jnp.concatenate([state.qpos[first:], qvel])

    def judge(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Forward speed, health, cost of control."""
        speed = (new.physics.qpos[0] - old.physics.qpos[0]) / self.dt
        reward = self.args.forward_reward_weight * speed
        reward -= self.args.ctrl_cost_weight * jnp.sum(control**2)
        healthy = self.healthy(new.physics)
        if healthy is None:
            return reward, jnp.zeros((), bool)
        paid, terminated = self.alive(healthy)
        return reward + paid, terminated


class HalfCheetah(Runner):
    """Two legs in a plane; it never falls."""

    xml = "half_cheetah.xml"
    iterations = 6


class Swimmer(Runner):
    """Three links in a viscous fluid."""

    xml = "swimmer.xml"
    frame_skip = 4
    skipped = 2

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Uniform, velocities too."""
        return self.draw_around(key, self.args.reset_noise_scale, symmetric)


class Hopper(Swimmer):
    """One leg in a plane."""

    xml = "hopper.xml"
    skipped = 1
    speed_limit = 10

    def healthy(self, state: physics.State) -> jax.Array | None:
        """Height, angle, and no state too large."""
        rest = jnp.concatenate([state.qpos[2:], state.qvel])
        return (
            within(state.qpos[1], self.args.healthy_z_range)
            & within(state.qpos[2], self.args.healthy_angle_range)
            & within(rest, self.args.healthy_state_range).all()
        )


class Walker2d(Hopper):
    """Two legs in a plane."""

    xml = "walker2d.xml"

    def healthy(self, state: physics.State) -> jax.Array | None:
        """Height and angle."""
        upright = within(state.qpos[2], self.args.healthy_angle_range)
        return within(state.qpos[1], self.args.healthy_z_range) & upright


class Reacher(GymnasiumTask):
    """An arm of two links whose fingertip should be at the target."""

    xml = "reacher.xml"
    frame_skip = 2

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The target uniform in a disc of radius 0.2, at rest."""
        for_qpos, for_radius, for_angle, for_qvel = jax.random.split(key, 4)
        qpos = jnp.asarray(self.model.qpos0[:2], jnp.float32) + 0.1 * symmetric(for_qpos, (2,))
        radius = 0.2 * jnp.sqrt(jax.random.uniform(for_radius))
        angle = 2 * jnp.pi * jax.random.uniform(for_angle)
        goal = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        qvel = 0.005 * symmetric(for_qvel, (2,))
        return jnp.concatenate([qpos, goal]), jnp.concatenate([qvel, jnp.zeros(2)])

    def see(self, out: Forward | Seen) -> Any:
        """From the target to the fingertip."""
        return out.xpos[self.model.body("fingertip").id] - out.xpos[self.model.body("target").id]

    def observe(self, state: physics.State, seen: Any) -> jax.Array:
        """Angles, target, velocities, and the vector between fingertip and target."""
        angle = state.qpos[:2]
        between = seen if self.v4 else seen[:2]
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle), state.qpos[2:], state.qvel[:2], between])

    def judge(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Distance and cost of control; version 4 takes the distance before the step."""
        between = old.seen if self.v4 else new.seen
        distance = getattr(self.args, "reward_dist_weight", 1) * jnp.linalg.norm(between)
        cost = getattr(self.args, "reward_control_weight", 1) * jnp.sum(control**2)
        return -distance - cost, jnp.zeros((), bool)


class InvertedPendulum(GymnasiumTask):
    """Balance a pole on a cart."""

    xml = "inverted_pendulum.xml"
    frame_skip = 2

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Uniform, velocities too."""
        return self.draw_around(key, getattr(self.args, "reset_noise_scale", 0.01), symmetric)

    def observe(self, state: physics.State, seen: Any) -> jax.Array:
        """Positions and velocities."""
        return jnp.concatenate([state.qpos, state.qvel])

    def judge(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One for each step; version 5 pays none for the last."""
        terminated = jnp.abs(new.physics.qpos[1]) > 0.2
        return jnp.where(terminated & (not self.v4), 0.0, 1.0), terminated


class InvertedDoublePendulum(GymnasiumTask):
    """Balance two poles on a cart."""

    xml = "inverted_double_pendulum.xml"

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Uniform positions, normal velocities."""
        return self.draw_around(key, getattr(self.args, "reset_noise_scale", 0.1), jax.random.normal)

    def see(self, out: Forward | Seen) -> Any:
        """The tip's position, and the forces that the cart's limits exert."""
        return out.site_xpos[0], out.qfrc_constraint

    def observe(self, state: physics.State, seen: Any) -> jax.Array:
        """The cart's position, the angles, velocities and forces of constraint."""
        angles = state.qpos[1:]
        forces = jnp.clip(seen[1], -10, 10)
        parts = [state.qpos[:1], jnp.sin(angles), jnp.cos(angles), jnp.clip(state.qvel, -10, 10)]
        return jnp.concatenate([*parts, forces if self.v4 else forces[:1]])

    def judge(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Ten for each step, less for distance and speed; version 5 pays none for the last."""
        x, _, y = new.seen[0]
        terminated = y <= 1
        slow = 1e-3 * new.physics.qvel[1] ** 2 + 5e-3 * new.physics.qvel[2] ** 2
        bonus = jnp.where(terminated & (not self.v4), 0.0, getattr(self.args, "healthy_reward", 10))
        return bonus - 0.01 * x**2 - (y - 2) ** 2 - slow, terminated


TASKS: dict[str, type[GymnasiumTask]] = {
    "Ant": Ant,
    "HalfCheetah": HalfCheetah,
    "Hopper": Hopper,
    "InvertedDoublePendulum": InvertedDoublePendulum,
    "InvertedPendulum": InvertedPendulum,
    "Reacher": Reacher,
    "Swimmer": Swimmer,
    "Walker2d": Walker2d,
}


def make(name: str, args: Mapping[str, Any], physics: str = "auto") -> GymnasiumTask:
    """The task of that name; see :class:`GymnasiumTask`."""
    return TASKS[name.rsplit("-v", 1)[0]](name, args, physics)
