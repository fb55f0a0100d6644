"""Gymnasium's MuJoCo tasks on the device: the models, rewards, limits and arguments of the installed package.

What a task is follows Gymnasium's code line by line; where that reads results of MuJoCo's last evaluation,
which lags behind the positions by one time step or Runge-Kutta stage, so does this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.envs.physics.mjx import dynamics
from td3_brax.envs.physics.mjx.dynamics import Forward
from td3_brax.envs.physics.rigid.physics import DynamicsOutput
from td3_brax.envs.tasks.gymnasium_base import GymnasiumTask, State, symmetric, within


class Ant(GymnasiumTask):
    """Run along x on four legs. Its velocity is that of the torso's lagging position."""

    xml = "ant.xml"
    contacts = 12
    iterations = 6

    def read_dynamics(self, out: Forward | DynamicsOutput) -> Any:
        """The torso's position, and where they count the clipped contact forces of each body."""
        body = getattr(self.args, "main_body", 1)
        torso = self.model.body(body).id
        position = out.xpos[torso, :2]
        if not self.uses_contact_forces:
            return position, jnp.zeros((0, 6))
        return position, jnp.clip(out.cfrc_ext, *self.args.contact_force_range)

    @property
    def uses_contact_forces(self) -> bool:
        """Whether contact forces are in observation or cost."""
        if self.v4:
            return bool(self.args.use_contact_forces)
        return bool(self.args.include_cfrc_ext_in_observation or self.args.contact_cost_weight)

    def read_after_reset(self, seen: Any) -> Any:
        """MuJoCo has computed no contact forces yet."""
        return seen[0], jnp.clip(jnp.zeros_like(seen[1]), *self.args.contact_force_range)

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Positions without x and y, velocities, contact forces."""
        first = 2 * self.args.exclude_current_positions_from_observation
        parts = [state.qpos[first:], state.qvel]
        if self.v4 and self.args.use_contact_forces:
            parts.append(seen[1].ravel())
        elif not self.v4 and self.args.include_cfrc_ext_in_observation:
            parts.append(seen[1][1:].ravel())
        return jnp.concatenate(parts)

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Forward speed, health, costs of control and contact."""
        forward = (new.seen[0][0] - old.seen[0][0]) / self.dt
        low, high = self.args.healthy_z_range
        z = new.physics.qpos[2]
        paid, terminated = self.health_outcome((low <= z) & (z <= high))
        cost = self.args.ctrl_cost_weight * jnp.sum(control**2)
        if self.uses_contact_forces:
            cost += self.args.contact_cost_weight * jnp.sum(new.seen[1] ** 2)
        return forward * getattr(self.args, "forward_reward_weight", 1) + paid - cost, terminated


class Runner(GymnasiumTask):
    """Move along x, paid by the change of the first position."""

    skipped = 1
    """Positions that the observation leaves out."""
    speed_limit = np.inf
    """Velocities are clipped to it in the observation."""

    def healthy(self, state: dynamics.State) -> jax.Array | None:
        """[] or None where the task never ends and pays nothing for it."""
        return None

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Positions and velocities."""
        first = self.skipped * self.args.exclude_current_positions_from_observation
        qvel = jnp.clip(state.qvel, -self.speed_limit, self.speed_limit)
        return jnp.concatenate([state.qpos[first:], qvel])

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Forward speed, health, cost of control."""
        speed = (new.physics.qpos[0] - old.physics.qpos[0]) / self.dt
        reward = self.args.forward_reward_weight * speed
        reward -= self.args.ctrl_cost_weight * jnp.sum(control**2)
        healthy = self.healthy(new.physics)
        if healthy is None:
            return reward, jnp.zeros((), bool)
        paid, terminated = self.health_outcome(healthy)
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

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Uniform, velocities too."""
        return self.draw_near_start(key, self.args.reset_noise_scale, symmetric)


class Hopper(Swimmer):
    """One leg in a plane."""

    xml = "hopper.xml"
    skipped = 1
    speed_limit = 10

    def healthy(self, state: dynamics.State) -> jax.Array | None:
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

    def healthy(self, state: dynamics.State) -> jax.Array | None:
        """Height and angle."""
        upright = within(state.qpos[2], self.args.healthy_angle_range)
        return within(state.qpos[1], self.args.healthy_z_range) & upright


class Reacher(GymnasiumTask):
    """An arm of two links whose fingertip should be at the target."""

    xml = "reacher.xml"
    frame_skip = 2

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The target uniform in a disc of radius 0.2, at rest."""
        for_qpos, for_radius, for_angle, for_qvel = jax.random.split(key, 4)
        qpos = jnp.asarray(self.model.qpos0[:2], jnp.float32) + 0.1 * symmetric(for_qpos, (2,))
        radius = 0.2 * jnp.sqrt(jax.random.uniform(for_radius))
        angle = 2 * jnp.pi * jax.random.uniform(for_angle)
        goal = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        qvel = 0.005 * symmetric(for_qvel, (2,))
        return jnp.concatenate([qpos, goal]), jnp.concatenate([qvel, jnp.zeros(2)])

    def read_dynamics(self, out: Forward | DynamicsOutput) -> Any:
        """From the target to the fingertip."""
        return out.xpos[self.model.body("fingertip").id] - out.xpos[self.model.body("target").id]

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Angles, target, velocities, and the vector between fingertip and target."""
        angle = state.qpos[:2]
        between = seen if self.v4 else seen[:2]
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle), state.qpos[2:], state.qvel[:2], between])

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Distance and cost of control; version 4 takes the distance before the step."""
        between = old.seen if self.v4 else new.seen
        distance = getattr(self.args, "reward_dist_weight", 1) * jnp.linalg.norm(between)
        cost = getattr(self.args, "reward_control_weight", 1) * jnp.sum(control**2)
        return -distance - cost, jnp.zeros((), bool)


class InvertedPendulum(GymnasiumTask):
    """Balance a pole on a cart."""

    xml = "inverted_pendulum.xml"
    frame_skip = 2

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Uniform, velocities too."""
        return self.draw_near_start(key, getattr(self.args, "reset_noise_scale", 0.01), symmetric)

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Positions and velocities."""
        return jnp.concatenate([state.qpos, state.qvel])

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One for each step; version 5 pays none for the last."""
        terminated = jnp.abs(new.physics.qpos[1]) > 0.2
        return jnp.where(terminated & (not self.v4), 0.0, 1.0), terminated


class InvertedDoublePendulum(GymnasiumTask):
    """Balance two poles on a cart."""

    xml = "inverted_double_pendulum.xml"

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Uniform positions, normal velocities."""
        return self.draw_near_start(key, getattr(self.args, "reset_noise_scale", 0.1), jax.random.normal)

    def read_dynamics(self, out: Forward | DynamicsOutput) -> Any:
        """The tip's position, and the forces that the cart's limits exert."""
        return out.site_xpos[0], out.qfrc_constraint

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """The cart's position, the angles, velocities and forces of constraint."""
        angles = state.qpos[1:]
        forces = jnp.clip(seen[1], -10, 10)
        parts = [state.qpos[:1], jnp.sin(angles), jnp.cos(angles), jnp.clip(state.qvel, -10, 10)]
        return jnp.concatenate([*parts, forces if self.v4 else forces[:1]])

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
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
