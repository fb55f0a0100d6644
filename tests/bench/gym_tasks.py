"""Gymnasium's tasks: ``fidelity`` to the real ones, ``speed`` beside MJX and C MuJoCo, ``h100`` counts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from td3_brax.runs.device import prepare_jax

prepare_jax(devices=2)

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from physics import in_c
from visits import ours_from, task_of, visited

from td3_brax.algorithm import shards
from td3_brax.commands.bench import aot
from td3_brax.envs.physics.mjx.patched import mjx, precise
from td3_brax.envs.suppress import suppress_warnings
from td3_brax.envs.tasks.gymnasium import make
from td3_brax.envs.tasks.gymnasium_base import GymnasiumTask
from td3_brax.names import GYMNASIUM_TASKS

V5 = [name for name in GYMNASIUM_TASKS if name.endswith("5")]


def fidelity(names: list[str]) -> None:
    """One step from 1,000 states that random and trained policies visit: percentiles 50, 99 and 100."""
    print("| task | qpos | obs | reward | termination differs |\n|---|---|---|---|---|")
    for name in names:
        at = visited(name, 1000)
        out = ours_from(task_of(name), at)
        pairs = [
            (out.state.physics.qpos, at["next_qpos"]),
            (out.obs, at["next_obs"]),
            (out.reward, at["reward"]),
        ]
        cells = []
        for mine, theirs in pairs:
            worst = np.abs(mine - theirs).reshape(len(theirs), -1).max(axis=1)
            cells.append(" ".join(f"{x:.0e}" for x in np.percentile(worst, [50, 99, 100])))
        wrong = int((out.terminated != at["terminated"]).sum())
        print(f"| {name} | {' | '.join(cells)} | {wrong} of {int(at['terminated'].sum())} |", flush=True)


def rate(step: Callable[[Any, jax.Array], Any], start: Any, num_envs: int, action_size: int) -> float:
    """Environment steps a second of ``num_envs`` on two CPU devices (one for a single environment)."""
    parts = 1 if num_envs == 1 else 2
    length = 10

    def run(state: Any, key: jax.Array) -> Any:
        def one(state: Any, key: jax.Array) -> Any:
            action = jax.random.uniform(key, (num_envs // parts, action_size), minval=-1, maxval=1)
            return jax.vmap(step)(state, action), None

        return jax.lax.scan(one, state, jax.random.split(key, length))[0]

    key = jax.random.key(0)
    specs = (shards.SPLIT, shards.REPLICATED)
    program = shards.jit(run, parts, specs, shards.SPLIT).lower(start, key).compile()
    state = program(*jax.device_put((start, key), program.input_shardings[0]))
    key = jax.device_put(key, program.input_shardings[0][1])
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - began < 2:
        before = time.perf_counter()
        state = jax.block_until_ready(program(state, key))
        rates.append(length * num_envs / (time.perf_counter() - before))
    return float(np.median(rates))


def ours(task: GymnasiumTask, num_envs: int) -> float:
    """Of a task of ours."""
    state, _ = jax.jit(jax.vmap(task.reset))(jax.random.split(jax.random.key(0), num_envs))
    return rate(lambda s, a: task.step(s, a).state, state, num_envs, task.action_size)


def unmodified(task: GymnasiumTask, num_envs: int) -> float:
    """Of ``mjx.step`` on the same model from the same states."""
    with suppress_warnings():
        model = mjx.put_model(task.model, impl="jax")

    def step(data: Any, action: jax.Array) -> Any:
        low, high = task.action_low, task.action_high
        data = data.replace(ctrl=low + (action + 1) / 2 * (high - low))
        with precise():
            return jax.lax.fori_loop(0, task.args.frame_skip, lambda _, d: mjx.step(model, d), data)

    def start(key: jax.Array) -> Any:
        state = task.reset(key)[0].physics
        return mjx.make_data(model).replace(qpos=state.qpos, qvel=state.qvel)

    data = jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(0), num_envs))
    return rate(step, data, num_envs, task.action_size)


def speed(names: list[str]) -> None:
    """Steps a second of ours, of ours on MJX, of unmodified ``mjx.step`` and of C MuJoCo on two threads."""
    sizes = [1, 64, 512, 4096]
    print(f"| task | {' | '.join(f'{n:,}' for n in sizes)} | C MuJoCo, 512 | on MJX, 512 | mjx.step, 64 |")
    print(f"|---|{'---|' * (len(sizes) + 3)}")
    for name in names:
        task = task_of(name)
        rates = [ours(task, n) for n in sizes]
        rates += [in_c(task.model, task.args.frame_skip, 512), ours(make(name, {}, "mjx"), 512)]
        print(f"| {name} | {' | '.join(f'{r:,.0f}' for r in [*rates, unmodified(task, 64)])} |", flush=True)


def h100(names: list[str]) -> None:
    """Device operations of a step of 1,024 environments compiled for an H100, and its open loops."""
    print(
        "| task | device operations per step | host operations | loops of unknown length |\n|---|---|---|---|"
    )
    for name in names:
        task = task_of(name)
        state, _ = jax.eval_shape(jax.vmap(task.reset), jax.random.split(jax.random.key(0), 1024))
        action = jax.ShapeDtypeStruct((1024, task.action_size), jnp.float32)
        program = aot.compile_for(jax.vmap(task.step), (state, action))
        counts = aot.count(program)
        cells = f"{counts.operations:,} | {len(counts.host)} | {len(counts.unknown_loops)}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    job, *names = sys.argv[1:] or ["fidelity"]
    print(f"Gymnasium {gymnasium.__version__}, MuJoCo {mujoco.__version__}, jax {jax.__version__}\n")
    {"fidelity": fidelity, "speed": speed, "h100": h100}[job](names or V5)
