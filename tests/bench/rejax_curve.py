"""Train rejax's PPO, unchanged, on one of our tasks; draw its learning curve and film its policy.

``python tests/bench/rejax_curve.py HalfCheetah-v5 1_000_000 curve`` writes ``curve.png``, ``curve.mp4`` and
``curve.gif``. It needs ``pip install -e ".[interop]"``.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from td3_brax.commands.render.run import drawing_backend
from td3_brax.runs.device import prepare_jax

os.environ["MUJOCO_GL"] = drawing_backend()
prepare_jax(devices=1)

import jax
import matplotlib
import numpy as np
import rejax

matplotlib.use("agg")
import matplotlib.pyplot as plt

from td3_brax.commands.render import film
from td3_brax.commands.render.episodes import Episode
from td3_brax.commands.render.scene import make_scene
from td3_brax.envs import make

ENVS, STEPS, POINTS, SEED = 256, 32, 8, 0
FILM_S = 10.0
"""Simulated seconds of the film."""


def play(env: Any, act: Any, label: str) -> Episode:
    """Play the policy ``act(obs, key)`` for at most :data:`FILM_S` seconds."""

    def step(carry: Any, key: jax.Array) -> Any:
        state, obs, alive = carry
        out, qpos = env.task.shown(state, jax.numpy.clip(act(obs, key), -1, 1))
        return (out.state, out.obs, alive & ~out.terminated), (qpos, out.reward, alive)

    state, obs = env.task.reset(jax.random.key(SEED))
    keys = jax.random.split(jax.random.PRNGKey(SEED), round(FILM_S / env.task.dt))
    (*_, alive), (qpos, rewards, counts) = jax.jit(
        lambda keys: jax.lax.scan(step, (state, obs, jax.numpy.bool_(True)), keys)
    )(keys)
    length = int(counts.sum())
    return Episode(label, np.asarray(qpos)[:length], np.asarray(rewards)[:length], not alive)


def main(task: str, total: str, name: str) -> None:
    """Train, print mean and standard deviation of 128 returns at each evaluation, draw them, and film."""
    env = make(task, kind="gymnax")
    every = int(total) // POINTS
    ppo = rejax.get_algo("ppo").create(
        env=env,
        env_params=env.default_params,
        total_timesteps=int(total),
        eval_freq=every,
        num_envs=ENVS,
        num_steps=STEPS,
        num_epochs=4,
        num_minibatches=32,
        learning_rate=3e-4,
        max_grad_norm=0.5,
        ent_coef=0.0,
        normalize_observations=True,
        normalize_rewards=True,
    )
    began, cpu = time.perf_counter(), time.process_time()
    state, (_, returns) = jax.block_until_ready(jax.jit(ppo.train)(jax.random.PRNGKey(SEED)))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"{seconds:.0f} s, {cpu:.0f} s of CPU, compiling included")
    per_evaluation = -(-every // (ENVS * STEPS)) * ENVS * STEPS  # rejax rounds up to whole iterations
    steps = per_evaluation * np.arange(len(returns))
    mean, std = np.asarray(returns).mean(axis=1), np.asarray(returns).std(axis=1)
    for row in zip(steps, mean, std, strict=True):
        print("{:>9,} steps {:8,.0f} +- {:,.0f}".format(*row))
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axes.plot(steps, mean, marker="o")
    axes.fill_between(steps, mean - std, mean + std, alpha=0.2)
    axes.set(xlabel="environment steps", ylabel="return", title=f"rejax's PPO on our {task}")
    figure.savefig(f"{name}.png", dpi=120)
    episode = play(env, ppo.make_act(state), f"rejax's PPO, {int(total):,} steps")
    pictures, fps = film.frames(env.task.model, make_scene(env.task.model), [episode], env.task.dt)
    film.write(pictures, fps, Path(f"{name}.mp4"), Path(f"{name}.gif"))


if __name__ == "__main__":
    main(*sys.argv[1:])
