"""Brax's Ant in four physics: ``speed`` on a CPU, operations and compiling for an H100 (``h100``).

``python tests/bench/physics.py speed 1 64 512 4096`` (numbers of environments), ``... h100 ant Ant-v5``,
``... agreement`` of one time step with ``mjx.step``'s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from td3_brax.runs.device import prepare_jax

prepare_jax(devices=2)

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import rollout
from test_rigid import mjxs, ours, robot, wandered

jax.config.update("jax_enable_compilation_cache", False)

from td3_brax.algorithm import shards
from td3_brax.commands.bench import aot
from td3_brax.envs.physics.mjx.patched import mjx, precise
from td3_brax.envs.physics.rigid.physics import RigidPhysics
from td3_brax.envs.tasks.brax import BraxTask, model_of
from td3_brax.envs.tasks.gymnasium import make
from td3_brax.names import GYMNASIUM_TASKS

FRAMES, LENGTH, SECONDS = 5, 10, 3.0


def median_rate(call: Callable[[], Any], steps: int) -> float:
    """Environment steps a second of ``call``, which makes ``steps``."""
    call()
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - began < SECONDS:
        before = time.perf_counter()
        call()
        rates.append(steps / (time.perf_counter() - before))
    return float(np.median(rates))


def jitted(step: Callable[[Any, jax.Array], Any], start: Any, count: int) -> tuple[float, float, float]:
    """Environment steps a second on two CPU devices; seconds and CPU seconds of compiling."""
    parts = 1 if count == 1 else 2

    def run(state: Any, key: jax.Array) -> Any:
        def one(state: Any, key: jax.Array) -> Any:
            action = jax.random.uniform(key, (count // parts, 8), minval=-1, maxval=1)
            return jax.vmap(step)(state, action), None

        return jax.lax.scan(one, state, jax.random.split(key, LENGTH))[0]

    key = jax.random.key(0)
    lowered = shards.jit(run, parts, (shards.SPLIT, shards.REPLICATED), shards.SPLIT).lower(start, key)
    before, cpu = time.perf_counter(), time.process_time()
    program = lowered.compile()
    seconds, cpu = time.perf_counter() - before, time.process_time() - cpu
    inputs = jax.device_put((start, key), program.input_shardings[0])
    rate = median_rate(lambda: jax.block_until_ready(program(*inputs)), LENGTH * count)
    return rate, seconds, cpu


def of_task(physics: str, count: int) -> tuple[float, float, float]:
    """Of the task with one physics or the other."""
    task = BraxTask("ant", physics=physics)
    state, _ = jax.jit(jax.vmap(task.reset))(jax.random.split(jax.random.key(0), count))
    return jitted(lambda s, a: task.step(s, a).state, state, count)


def plain(count: int) -> tuple[float, float, float]:
    """Of ``mjx.step`` alone."""
    model = mjx.put_model(model_of(BraxTask("ant")._env), impl="jax")

    def step(data: Any, action: jax.Array) -> Any:
        data = data.replace(ctrl=action)
        with precise():
            return jax.lax.fori_loop(0, FRAMES, lambda _, d: mjx.step(model, d), data)

    def start() -> Any:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), mjx.make_data(model))

    return jitted(step, jax.jit(start)(), count)


def in_c(model: mujoco.MjModel, frames: int, count: int) -> float:
    """Of C MuJoCo on two threads, from where ``count`` robots are after random actions."""
    datas = [mujoco.MjData(model) for _ in range(2)]
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    first = np.zeros(size)
    mujoco.mj_getState(model, datas[0], first, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    length = LENGTH if count > 1 else 50 * LENGTH
    low, high = model.actuator_ctrlrange.T
    actions = np.random.default_rng(0).uniform(low, high, (count, length, model.nu))
    control = np.repeat(actions, frames, axis=1)
    with rollout.Rollout(nthread=2) as pool:
        states, _ = pool.rollout(model, datas, np.tile(first, (count, 1)), control)
        starts = states[:, -1].copy()
        return median_rate(lambda: pool.rollout(model, datas, starts, control), length * count)


def speed(sizes: list[str]) -> None:
    """Environment steps a second, and what compiling took: seconds, CPU seconds."""
    print("| environments | brax mjx | mjx.step | C MuJoCo | ours | compiling mjx.step | compiling ours |")
    print("|---|---|---|---|---|---|---|")
    model = model_of(BraxTask("ant")._env)
    for count in map(int, sizes or ["1", "64", "512", "4096"]):
        brax, _, _ = of_task("mjx", count)
        theirs, seconds, cpu = plain(count)
        ours, our_seconds, our_cpu = of_task("fast", count)
        rates = " | ".join(f"{x:,.0f}" for x in (brax, theirs, in_c(model, FRAMES, count), ours))
        compiling = f"{seconds:.1f}, {cpu:.1f} | {our_seconds:.1f}, {our_cpu:.1f}"
        print(f"| {count:,} | {rates} | {compiling} |", flush=True)


def h100(names: list[str]) -> None:
    """Device operations of a step of 1,024 environments compiled for an H100."""
    print("| task | physics | device operations | library calls | open loops | CPU seconds of compiling |")
    print("|---|---|---|---|---|---|")
    for name in names or ["ant"]:
        for physics in ("mjx", "fast"):
            known = name in GYMNASIUM_TASKS
            task: Any = make(name, {}, physics) if known else BraxTask(name, physics=physics)
            state, _ = jax.eval_shape(jax.vmap(task.reset), jax.random.split(jax.random.key(0), 1024))
            action = jax.ShapeDtypeStruct((1024, task.action_size), jnp.float32)
            before = time.process_time()
            counts = aot.count(aot.compile_for(jax.vmap(task.step), (state, action)))
            cells = [counts.operations, sum(counts.custom_calls.values()), len(counts.unknown_loops)]
            cells.append(round(time.process_time() - before))
            print(f"| {name} | {physics} | {' | '.join(f'{x:,}' for x in cells)} |", flush=True)


def agreement(_: list[str]) -> None:
    """Percentiles 50, 99 and 100 of the largest error of a time step in qpos, qvel and qacc."""
    print("| robot | states, of them touching | qpos | qvel | qacc |\n|---|---|---|---|---|")
    for name, count, dtype in (("ant", 1000, np.float32), ("crab", 100, np.float64)):
        model = robot(name)
        with jax.enable_x64(dtype == np.float64):
            states = tuple(jnp.asarray(x, dtype) for x in wandered(model, count))
            *wanted, touching = mjxs(model, states)
            got = ours(RigidPhysics(model), states)
        errors = [np.abs(a - b).max(axis=1) for a, b in zip(got[:3], wanted[:3], strict=True)]
        cells = [" ".join(f"{x:.0e}" for x in np.percentile(e, (50, 99, 100))) for e in errors]
        print(f"| {name}, {dtype.__name__} | {count:,}, {(touching > 0).sum():,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    job, *rest = sys.argv[1:] or ["speed"]
    {"speed": speed, "h100": h100, "agreement": agreement}[job](rest)
