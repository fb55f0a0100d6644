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


# What is no task: the part at fault, and the task.

WRONG: dict[str, Any] = {}


def wrong(part: str, **parts: Any) -> None:
    """A task, ``odd:WrongN``, that is a :class:`Point` but for ``parts``."""
    WRONG[f"Wrong{len(WRONG)}"] = part, type(f"Wrong{len(WRONG)}", (Point,), parts)


def _as(convert: Any) -> Any:
    return lambda self, x, *_: convert(x)


wrong("reset's observation", obs=_as(lambda x: jnp.round(100 * x).astype(jnp.int32)))
wrong("reset's observation", obs=_as(lambda x: {"state": x, "privileged_state": x}))
wrong("reset's observation", obs=_as(lambda x: x[:1]))
wrong("reset's observation", obs=_as(lambda x: x.astype(jnp.bfloat16)))
wrong("reset", reset=lambda self, key: jax.random.normal(key, (2,)))
wrong("step's reward", reward=_as(lambda x: -jnp.square(x[:1])))
wrong("step's reward", reward=_as(lambda x: 1))
wrong("step's reward", reward=_as(lambda x: None))
wrong("step's terminated", terminated=_as(lambda x: jnp.float32(0)))
wrong("step's terminated", terminated=_as(lambda x: x > 5))
wrong("step", step=lambda self, x, action: (x, x, 0.0, False))
wrong("step's state", step=lambda self, x, action: Step({"x": x}, x, 0.0, False))
wrong("step's state", step=lambda self, x, action: Step(x[:1], x, 0.0, False))
wrong("shown", shown=lambda self, x, action: self.step(x, action))
wrong("shown's positions", shown=lambda self, x, action: (self.step(x, action), x))
wrong("action_low", action_size=3)
wrong("action_low", action_low=-1.0)
wrong("action_low", action_low=np.array([-np.inf]))
wrong("action_high", action_high=np.array([1e39]))
wrong("action_high", action_high=None)
wrong("action_high", action_high=["much"])
wrong("action_low", action_low=np.ones(1, np.float32))
wrong("obs_size", obs_size=2.0)
wrong("action_size", action_size=0)
wrong("open_loops", open_loops=None)
wrong("dt", dt="0.05")
wrong("dt", dt=np.nan)
wrong("model", __init__=lambda self: setattr(self, "model", None))
globals().update({name: task for name, (_, task) in WRONG.items()})
