"""Tasks with no physics: one whose every event is known in advance, and one that is learnt in seconds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.task import Step


class Toy:
    """Counts its steps; ``birth``, drawn at reset, names the episode and says how it ends.

    obs = [birth, step]. It terminates at step ``1 + floor(birth * longest)``. With an action above
    ``poison`` its state becomes NaN. Reward is birth + step + the first action.
    """

    name = "toy"
    obs_size = 2
    action_size = 1
    action_low = np.full(1, -2.0, np.float32)
    action_high = np.full(1, 2.0, np.float32)
    open_loops = False

    def __init__(self, longest: float = 40.0, poison: float = 2.0) -> None:
        self.longest = longest
        self.poison = poison

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        state = jnp.stack([jax.random.uniform(key), 0.0])
        return state, state

    def step(self, state: Any, action: jax.Array) -> Step:
        birth, t = state[0], state[1] + 1
        after = jnp.stack([birth, jnp.where(action[0] > self.poison, jnp.nan, t)])
        return Step(
            state=after,
            obs=after,
            reward=birth + t + action[0],
            terminated=t >= 1 + jnp.floor(birth * self.longest),
        )


class Point:
    """A point to be held at ``goal`` by pushing it; it may not leave 3 on either side.

    obs = [place, speed]; an action adds ``push`` of itself to the speed.
    """

    name = "point"
    obs_size = 2
    action_size = 1
    action_low = np.full(1, -2.0, np.float32)
    action_high = np.full(1, 2.0, np.float32)
    open_loops = False
    dt = 0.2
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint type='slide'/><geom size='1'/></body></worldbody></mujoco>"
    )

    def __init__(self, push: float = 0.3, goal: float = 0.0) -> None:
        self.push, self.goal = push, goal

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        state = jax.random.uniform(key, (2,), minval=-1, maxval=1)
        return state, state

    def step(self, state: Any, action: jax.Array) -> Step:
        speed = 0.9 * state[1] + self.push * action[0]
        after = jnp.stack([state[0] + self.dt * speed, speed])
        away = jnp.abs(after[0] - self.goal)
        return Step(state=after, obs=after, reward=1 - away, terminated=away > 3)

    def shown(self, state: Any, action: jax.Array) -> tuple[Step, jax.Array]:
        out = self.step(state, action)
        return out, out.state[:1]


class Wide(Point):
    """With another number in its observations."""

    obs_size = 3

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        state, obs = super().reset(key)
        return state, jnp.append(obs, 0.0)

    def step(self, state: Any, action: jax.Array) -> Step:
        out = super().step(state, action)
        return Step(
            state=out.state, obs=jnp.append(out.obs, 0.0), reward=out.reward, terminated=out.terminated
        )


POINT: dict[str, Any] = {
    "env": "toy:Point",
    "num_envs": 8,
    "updates_per_env_step": 0.25,
    "hidden_sizes": [32, 32],
    "batch_size": 64,
    "replay_capacity": 8192,
    "warmup_env_steps": 512,
    "time_limit": 50,
    "collect_time_limit": 0,
    "gamma": 0.9,
    "report_every": 256,
    "eval_every": 256,
    "eval_episodes": 16,
    "eval_tau": 0.02,
}
"""Options of a run that learns to hold the point; all with these share a program."""
ARGV = [*(f"--{name}={value}" for name, value in POINT.items()), "--devices=1"]
