"""The protocol that every task follows."""

from __future__ import annotations

from typing import Any, Protocol

import flax.struct
import jax
import mujoco
import numpy as np


@flax.struct.dataclass
class Step:
    """The result of one environment step."""

    state: Any
    """The task's state after the step: a pytree that holds only what the next step needs."""
    obs: jax.Array
    """[O] float32. The observation after the step."""
    reward: jax.Array
    """[] float32. The reward of the step."""
    terminated: jax.Array
    """[] bool. Whether the task itself ended the episode. Time limits are handled by ``VectorEnv``."""


class Task(Protocol):
    """One environment as pure functions that JAX can jit and vmap."""

    name: str
    obs_size: int
    action_size: int
    action_low: np.ndarray
    """[A] Finite lower limits in the task's units, used by a saved policy's ``predict``.

    Everywhere else, actions are in [-1, 1].
    """
    action_high: np.ndarray
    """[A] Finite upper limits, above ``action_low``."""
    open_loops: bool
    """Whether ``step`` contains a loop whose trip count the compiler does not know."""
    model: mujoco.MjModel
    """The MuJoCo model, for rendering."""
    dt: float
    """Simulated seconds per environment step."""

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        """Draw an initial state. Return it with its observation [O]."""
        ...

    def step(self, state: Any, action: jax.Array) -> Step:
        """Take one environment step with an action [A] in [-1, 1]."""
        ...

    def shown(self, state: Any, action: jax.Array) -> tuple[Step, jax.Array]:
        """Do the same as :meth:`step`, and also return the model's positions [nq] after it, for rendering."""
        ...
