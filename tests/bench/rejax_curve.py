"""Train rejax's PPO, unchanged, on one of our tasks, and draw its learning curve.

``python tests/bench/rejax_curve.py HalfCheetah-v5 1_000_000 curve.png`` with ``pip install -e ".[interop]"``.
"""

from __future__ import annotations

import sys
import time

from td3_brax.runs.device import prepare_jax

prepare_jax(devices=1)

import jax
import matplotlib
import numpy as np
import rejax

matplotlib.use("agg")
import matplotlib.pyplot as plt

from td3_brax.envs import make

ENVS, STEPS, POINTS, SEED = 256, 32, 8, 0


def main(task: str, total: str, file: str) -> None:
    """Train, print mean and standard deviation of 128 returns at each evaluation, and draw them."""
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
    _, (_, returns) = jax.block_until_ready(jax.jit(ppo.train)(jax.random.PRNGKey(SEED)))
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
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
