"""Play episodes on the device and record the robot's positions, to show them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.algorithm import build
from td3_brax.config import Config
from td3_brax.envs.registry import make_task
from td3_brax.envs.task import Task
from td3_brax.envs.vector import all_finite, select
from td3_brax.policy import Policy
from td3_brax.runs.export import make_policy


@dataclasses.dataclass(frozen=True)
class Episode:
    """An episode of T steps."""

    label: str
    qpos: np.ndarray
    """[T, nq] MuJoCo's generalized positions after each step."""
    rewards: np.ndarray
    """[T] reward of each step."""
    ended: bool = False
    """Whether the task, the time limit or broken physics ended it, not the length asked for."""


def untrained(config: Config, task: Task) -> Policy:
    """Return the policy that the run began with."""
    single = dataclasses.replace(config, devices=1)
    state = jax.jit(lambda: build.start(build.build(single, task), [single]))()
    first = (state.members.learner.actor_eval, state.members.obs_stats)
    actor, stats = jax.device_get(jax.tree.map(lambda x: x[0], first))
    return make_policy(single, task, actor, stats, {"env_steps": 0})


def play(
    config: Config, shown: Sequence[Policy | None], labels: Sequence[str], seconds: float, seed: int
) -> tuple[Task, list[Episode]]:
    """Play an episode of each policy; return the task and the episodes.

    Different policies start from the same initial state. A policy that is listed again starts from another.

    Args:
        shown: the policies; None stands for the untrained one.
        seconds: simulated time, at most.
        seed: seed of the initial states.
    """
    task = make_task(config)
    steps = max(1, min(round(seconds / task.dt), config.time_limit))
    policies = [policy or untrained(config, task) for policy in shown]
    again = [sum(other is policy for other in policies[:i]) for i, policy in enumerate(policies)]
    keys = jnp.stack([jax.random.key(seed + number) for number in again])

    def episodes(parts: Any, keys: jax.Array) -> Any:
        state, obs = jax.vmap(task.reset)(keys)
        start = state, obs, all_finite((state, obs))

        def act(arrays: Any, obs: jax.Array) -> jax.Array:
            names = ("weights", "biases", "obs_mean", "obs_deviation")
            return dataclasses.replace(policies[0], **dict(zip(names, arrays, strict=True))).forward(obs, jnp)

        def step(carry: Any, _: None) -> Any:
            state, obs, alive = carry
            out, qpos = jax.vmap(task.shown)(state, jax.vmap(act)(parts, obs))
            counts = alive & all_finite((out.state, out.obs, out.reward))
            state, obs = select(counts, (out.state, out.obs), (state, obs))
            return (state, obs, counts & ~out.terminated), (qpos, out.reward, counts)

        (_, _, alive), played = jax.lax.scan(step, start, length=steps)
        return *jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), played), ~alive

    parts = [(p.weights, p.biases, p.obs_mean, p.obs_deviation) for p in policies]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *parts)
    qpos, rewards, counts, ended = jax.device_get(jax.jit(episodes)(stacked, keys))
    lengths = counts.sum(axis=1)
    return task, [
        Episode(
            labels[i], qpos[i, :length], rewards[i, :length], bool(ended[i]) or steps == config.time_limit
        )
        for i, length in enumerate(lengths)
    ]
