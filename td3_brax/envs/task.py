"""The protocol that one task follows."""

from __future__ import annotations

from typing import Any, Protocol

import flax.struct
import jax
import mujoco
import numpy as np


@flax.struct.dataclass
class Step:
    """What one step of one environment gives."""

    state: Any
    """The task's state after the step: a pytree, as small as the next step allows."""
    obs: jax.Array
    """[O] float32."""
    reward: jax.Array
    """[] float32."""
    terminated: jax.Array
    """[] bool: the task itself ended the episode. Time limits are not the task's business."""


class Task(Protocol):
    """One environment, as pure functions that can be jitted and vmapped."""

    name: str
    obs_size: int
    action_size: int
    action_low: np.ndarray
    """[A] finite, the task's own units, for a saved policy's ``predict``; inside, actions are in [-1, 1]."""
    action_high: np.ndarray
    """[A] above ``action_low``."""
    open_loops: bool
    """Whether ``step`` holds a loop whose trip count a GPU's compiler does not know."""
    model: mujoco.MjModel
    """For pictures."""
    dt: float
    """Seconds of simulated time in a step."""

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """A newly drawn initial state and its observation [O]."""
        ...

    def step(self, state: Any, action: jax.Array) -> Step:
        """One step with an action [A] in [-1, 1]."""
        ...

    def shown(self, state: Any, action: jax.Array) -> tuple[Step, jax.Array]:
        """:meth:`step`, and the model's positions [nq] after it, for pictures."""
        ...
