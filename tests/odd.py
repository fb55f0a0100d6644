"""Tasks as people write them, each with something of its own that is unusual or wrong."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.task import Step

XML = """<mujoco><worldbody>
  <body><joint type="slide" axis="1 0 0"/><geom size=".1"/></body>
</worldbody></mujoco>"""


class Point:
    """It is to be at 0; the state is its position and velocity [2]. Rewards are not positive."""

    name, obs_size, action_size, open_loops = "point", 2, 1, False
    action_low: Any = -np.ones(1, np.float32)
    action_high: Any = np.ones(1, np.float32)
    dt = 0.05

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(XML)

    def obs(self, x: Any) -> Any:
        return x

    def reward(self, x: jax.Array) -> Any:
        return -jnp.square(x[0])

    def terminated(self, x: jax.Array) -> Any:
        return jnp.abs(x[0]) > 5

    def reset(self, key: jax.Array) -> Any:
        x = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return x, self.obs(x)

    def step(self, x: jax.Array, action: jax.Array) -> Any:
        v = x[1] + 0.1 * action[0]
        x = jnp.stack([x[0] + 0.1 * v, v])
        return Step(x, self.obs(x), self.reward(x), self.terminated(x))

    def shown(self, x: jax.Array, action: jax.Array) -> Any:
        out = self.step(x, action)
        return out, out.state[:1]


# What is right, if unusual.


class Asymmetric(Point):
    action_low, action_high = np.array([0.0], np.float32), np.array([10.0], np.float32)


class Float64Limits(Point):
    action_low, action_high = np.array([0.0]), np.array([10.0])


class ListLimits(Point):
    action_low, action_high = [-2], [3]


class KeyState(Point):
    """Its state has a key in it."""

    def reset(self, key: jax.Array) -> Any:
        x = jax.random.uniform(key, (2,))
        return {"x": x, "key": key}, x

    def step(self, state: Any, action: jax.Array) -> Any:
        key, noise = jax.random.split(state["key"])
        out = super().step(state["x"], action)
        x = out.state + 0.01 * jax.random.normal(noise, (2,))
        return Step({"x": x, "key": key}, x, out.reward, out.terminated)

    def shown(self, state: Any, action: jax.Array) -> Any:
        out = self.step(state, action)
        return out, out.state["x"][:1]


class Constants(Point):
    """Python's own numbers for reward and end."""

    def reward(self, x: jax.Array) -> Any:
        return -1.0

    def terminated(self, x: jax.Array) -> Any:
        return False


# What breaks.


class SomeBreak(Point):
    """Rewards beyond 0.5 are none."""

    def reward(self, x: jax.Array) -> Any:
        return jnp.where(x[0] > 0.5, jnp.nan, -jnp.square(x[0]))


class AllBreak(Point):
    def reward(self, x: jax.Array) -> Any:
        return jnp.nan * x[0]


class Raises(Point):
    def __init__(self) -> None:
        raise RuntimeError("my own mistake")


class RaisesLater(Point):
    def step(self, x: jax.Array, action: jax.Array) -> Any:
        raise RuntimeError("my own mistake")
