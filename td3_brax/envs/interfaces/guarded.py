"""Reset and step one environment such that no number that leaves it is NaN or infinite."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from td3_brax.envs.task import Task
from td3_brax.envs.vector import all_finite


@flax.struct.dataclass
class Outcome:
    """The result of one guarded step."""

    task: Any
    """The task's state after the step. If the physics broke, the state before it."""
    obs: jax.Array
    """[O] The observation after the step. If the physics broke, the one before it."""
    reward: jax.Array
    """[] The reward. If the physics broke, 0."""
    terminated: jax.Array
    """[] bool. Whether the task itself ended the episode."""
    broken: jax.Array
    """[] bool. Whether state, observation or reward of this step are not finite, or above ``RUNAWAY``."""


def finite(tree: Any) -> jax.Array:
    """Return []: whether all floats of one environment are below ``RUNAWAY``."""
    return all_finite(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree))[0]


def reset(task: Task, key: jax.Array) -> tuple[Any, jax.Array]:
    """Draw an initial state, and return it with its observation [O].

    If the state is broken, its observation is all zeros. The first step from it is broken too, so the episode
    ends at once.

    Args:
        task: the task.
        key: a key of ``jax.random.key``, or the older kind that ``jax.random.PRNGKey`` makes.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    state, obs = task.reset(key)
    return state, jnp.where(finite((state, obs)), obs, 0)


def step(task: Task, state: Any, obs: jax.Array, action: jax.Array) -> Outcome:
    """Take one step with an action [A] in [-1, 1] from a state and its observation [O]."""
    out = task.step(state, action)
    good = finite((out.state, out.obs, out.reward))
    return Outcome(
        task=jax.tree.map(lambda new, old: jnp.where(good, new, old), out.state, state),
        obs=jnp.where(good, out.obs, obs),
        reward=jnp.where(good, out.reward, 0),
        terminated=good & out.terminated,
        broken=~good,
    )
