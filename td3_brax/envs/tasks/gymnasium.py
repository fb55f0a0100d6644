"""Gymnasium's MuJoCo tasks on the device, with the models and arguments of the installed package.

Each task follows Gymnasium's code line by line. Some of that code reads results of MuJoCo's last evaluation,
which lags behind the positions by one time step or Runge-Kutta stage. The tasks here do the same.
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
    """Run along x on four legs. The velocity is computed from the lagging torso position."""

    xml = "ant.xml"
    contacts = 12
    iterations = 6

    def read_dynamics(self, out: Forward | DynamicsOutput) -> Any:
        """Return the torso's position, and the clipped contact forces of each body if the task uses them."""
        body = getattr(self.args, "main_body", 1)
        torso = self.model.body(body).id
        position = out.xpos[torso, :2]
        if not self.uses_contact_forces:
            return position, jnp.zeros((0, 6))
        return position, jnp.clip(out.cfrc_ext, *self.args.contact_force_range)

    @property
    def uses_contact_forces(self) -> bool:
        """Return whether the observation or the cost contains contact forces."""
        if self.v4:
            return bool(self.args.use_contact_forces)
        return bool(self.args.include_cfrc_ext_in_observation or self.args.contact_cost_weight)

    def read_after_reset(self, seen: Any) -> Any:
        """Set the contact forces to 0: after a reset, MuJoCo has not computed any yet."""
        return seen[0], jnp.clip(jnp.zeros_like(seen[1]), *self.args.contact_force_range)

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Return positions (without x and y by default), velocities and contact forces."""
        first = 2 * self.args.exclude_current_positions_from_observation
        parts = [state.qpos[first:], state.qvel]
        if self.v4 and self.args.use_contact_forces:
            parts.append(seen[1].ravel())
        elif not self.v4 and self.args.include_cfrc_ext_in_observation:
            parts.append(seen[1][1:].ravel())
        return jnp.concatenate(parts)

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reward forward speed and health, minus control and contact costs."""
        forward = (new.seen[0][0] - old.seen[0][0]) / self.dt
        low, high = self.args.healthy_z_range
        z = new.physics.qpos[2]
        paid, terminated = self.health_outcome((low <= z) & (z <= high))
        cost = self.args.ctrl_cost_weight * jnp.sum(control**2)
        if self.uses_contact_forces:
            cost += self.args.contact_cost_weight * jnp.sum(new.seen[1] ** 2)
        return forward * getattr(self.args, "forward_reward_weight", 1) + paid - cost, terminated


class Runner(GymnasiumTask):
    """Base of tasks that reward moving along x, by the change of the first position."""

    skipped = 1
    """Number of positions that the observation leaves out."""
    speed_limit = np.inf
    """Limit to which the observation clips velocities."""

    def healthy(self, state: dynamics.State) -> jax.Array | None:
        """Return whether the robot is healthy [], or None if the task never terminates or rewards health."""
        return None

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Return positions and velocities."""
        first = self.skipped * self.args.exclude_current_positions_from_observation
        qvel = jnp.clip(state.qvel, -self.speed_limit, self.speed_limit)
        return jnp.concatenate([state.qpos[first:], qvel])

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reward forward speed and health, minus the control cost."""
        speed = (new.physics.qpos[0] - old.physics.qpos[0]) / self.dt
        reward = self.args.forward_reward_weight * speed
        reward -= self.args.ctrl_cost_weight * jnp.sum(control**2)
        healthy = self.healthy(new.physics)
        if healthy is None:
            return reward, jnp.zeros((), bool)
        paid, terminated = self.health_outcome(healthy)
        return reward + paid, terminated


class HalfCheetah(Runner):
    """Run in a plane on two legs. The episode never terminates."""

    xml = "half_cheetah.xml"
    iterations = 6


class Swimmer(Runner):
    """Swim in a viscous fluid with three links."""

    xml = "swimmer.xml"
    frame_skip = 4
    skipped = 2

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw uniform positions and velocities."""
        return self.draw_near_start(key, self.args.reset_noise_scale, symmetric)


class Hopper(Swimmer):
    """Hop in a plane on one leg."""

    xml = "hopper.xml"
    skipped = 1
    speed_limit = 10

    def healthy(self, state: dynamics.State) -> jax.Array | None:
        """Check height, angle and the size of the other state variables."""
        rest = jnp.concatenate([state.qpos[2:], state.qvel])
        return (
            within(state.qpos[1], self.args.healthy_z_range)
            & within(state.qpos[2], self.args.healthy_angle_range)
            & within(rest, self.args.healthy_state_range).all()
        )


class Walker2d(Hopper):
    """Walk in a plane on two legs."""

    xml = "walker2d.xml"

    def healthy(self, state: dynamics.State) -> jax.Array | None:
        """Check height and angle."""
        upright = within(state.qpos[2], self.args.healthy_angle_range)
        return within(state.qpos[1], self.args.healthy_z_range) & upright


class Reacher(GymnasiumTask):
    """Move the fingertip of a two-link arm to a target."""

    xml = "reacher.xml"
    frame_skip = 2

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw the arm near its start, and the target at rest, uniformly in a disc of radius 0.2."""
        for_qpos, for_radius, for_angle, for_qvel = jax.random.split(key, 4)
        qpos = jnp.asarray(self.model.qpos0[:2], jnp.float32) + 0.1 * symmetric(for_qpos, (2,))
        radius = 0.2 * jnp.sqrt(jax.random.uniform(for_radius))
        angle = 2 * jnp.pi * jax.random.uniform(for_angle)
        goal = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        qvel = 0.005 * symmetric(for_qvel, (2,))
        return jnp.concatenate([qpos, goal]), jnp.concatenate([qvel, jnp.zeros(2)])

    def read_dynamics(self, out: Forward | DynamicsOutput) -> Any:
        """Return the vector from the target to the fingertip."""
        return out.xpos[self.model.body("fingertip").id] - out.xpos[self.model.body("target").id]

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Return angles, target, velocities and the vector from the target to the fingertip."""
        angle = state.qpos[:2]
        between = seen if self.v4 else seen[:2]
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle), state.qpos[2:], state.qvel[:2], between])

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Penalise distance and control. Version 4 uses the distance before the step."""
        between = old.seen if self.v4 else new.seen
        distance = getattr(self.args, "reward_dist_weight", 1) * jnp.linalg.norm(between)
        cost = getattr(self.args, "reward_control_weight", 1) * jnp.sum(control**2)
        return -distance - cost, jnp.zeros((), bool)


class InvertedPendulum(GymnasiumTask):
    """Balance a pole on a cart."""

    xml = "inverted_pendulum.xml"
    frame_skip = 2

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw uniform positions and velocities."""
        return self.draw_near_start(key, getattr(self.args, "reset_noise_scale", 0.01), symmetric)

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Return positions and velocities."""
        return jnp.concatenate([state.qpos, state.qvel])

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reward every step with 1 (version 5: unless it terminates)."""
        terminated = jnp.abs(new.physics.qpos[1]) > 0.2
        return jnp.where(terminated & (not self.v4), 0.0, 1.0), terminated


class InvertedDoublePendulum(GymnasiumTask):
    """Balance two poles on a cart."""

    xml = "inverted_double_pendulum.xml"

    def draw_initial_state(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw uniform positions and normally distributed velocities."""
        return self.draw_near_start(key, getattr(self.args, "reset_noise_scale", 0.1), jax.random.normal)

    def read_dynamics(self, out: Forward | DynamicsOutput) -> Any:
        """Return the tip's position and the forces of the constraints."""
        return out.site_xpos[0], out.qfrc_constraint

    def observe(self, state: dynamics.State, seen: Any) -> jax.Array:
        """Return the cart's position, sines and cosines of the angles, velocities and constraint forces."""
        angles = state.qpos[1:]
        forces = jnp.clip(seen[1], -10, 10)
        parts = [state.qpos[:1], jnp.sin(angles), jnp.cos(angles), jnp.clip(state.qvel, -10, 10)]
        return jnp.concatenate([*parts, forces if self.v4 else forces[:1]])

    def reward_and_end(self, old: State, new: State, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reward every step with 10 (version 5: unless it terminates), minus distance and speed."""
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
    """Return the task with that name. See :class:`GymnasiumTask` for the arguments."""
    return TASKS[name.rsplit("-v", 1)[0]](name, args, physics)
