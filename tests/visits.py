"""States of the real Gymnasium environments, and a step of theirs and of ours from each."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.envs.suppress import suppress_warnings
from td3_brax.envs.tasks.gymnasium import make
from td3_brax.envs.tasks.gymnasium_base import GymnasiumTask
from td3_brax.policy import load_policy

POLICIES = Path(__file__).parent / "policies"
"""Trained ones; see the folder's README."""


@functools.cache
def real(name: str, **args: Any) -> Any:
    with suppress_warnings():
        env = gymnasium.make(name, **args).unwrapped
    env.reset(seed=0)
    return env


@functools.cache
def task_of(name: str) -> GymnasiumTask:
    return make(name, {})


def visited(name: str, count: int, **args: Any) -> dict[str, np.ndarray]:
    """States that random policies of several strengths and a trained one visit, and a real step from each."""
    env, once = real(name, **args), real(name, render_mode=None, **args)
    file = POLICIES / f"{name}.npz"
    policy = load_policy(file) if file.exists() and not args else None
    rng = np.random.default_rng(0)
    low, high = env.action_space.low, env.action_space.high
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        obs, _ = env.reset(seed=int(rng.integers(2**31)))
        strength = rng.choice([0.3, 1.0])
        trained = policy is not None and rng.random() < 0.5
        held = rng.uniform(-1, 1, low.shape)
        for _ in range(rng.integers(20, 120)):
            if rng.random() < 0.5:
                held = rng.uniform(-1, 1, low.shape)
            action = np.asarray(policy(obs) + 0.1 * held if trained and policy else strength * held)
            action = np.clip(action, -1, 1).astype(np.float32)
            control = low + (action + 1) * (0.5 * (high - low))
            row = {
                "qpos": env.data.qpos.copy(),
                "qvel": env.data.qvel.copy(),
                "qacc": env.data.qacc_warmstart.copy(),
                "action": action,
            }
            once.set_state(row["qpos"], row["qvel"])
            row["next_obs"], row["reward"], row["terminated"], _, _ = once.step(control)
            row["next_qpos"] = once.data.qpos.copy()
            rows.append(row)
            obs, _, ended, _, _ = env.step(control)
            if ended:
                break
    return {key: np.stack([np.asarray(row[key]) for row in rows[:count]]) for key in rows[0]}


def ours_from(task: GymnasiumTask, at: dict[str, np.ndarray]) -> Any:
    """A step of ours from the same states, started as set_state does."""

    def step(qpos: jax.Array, qvel: jax.Array, qacc: jax.Array, action: jax.Array) -> Any:
        state, _ = task.set_state(qpos, qvel)
        return task.step(state.replace(physics=state.physics.replace(qacc=qacc)), action)

    inputs = [jnp.asarray(at[key], jnp.float32) for key in ("qpos", "qvel", "qacc", "action")]
    return jax.device_get(jax.jit(jax.vmap(step))(*inputs))


def percentile(a: np.ndarray, b: np.ndarray, q: float = 99) -> float:
    """Over states, of the largest error in each."""
    return float(np.percentile(np.abs(a - b).reshape(len(a), -1).max(axis=1), q))
