"""A task with no physics: every event is known in advance, so contracts can be checked exactly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
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
