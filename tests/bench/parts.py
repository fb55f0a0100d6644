"""Collect beside bare brax stepping; resets; a whole chunk beside the sum of its parts.

All on brax Ant (mjx), in one process, each part compiled as its own program and run in turn; medians.
On a CPU all of them are split over ``quick``'s devices, bare brax too.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from td3_brax import loop as loops
from td3_brax import shards
from td3_brax.config import Config
from td3_brax.device import platform, prepare_jax
from td3_brax.envs.brax import BraxTask, brax_envs
from td3_brax.presets import resolve
from td3_brax.schedule import REFILL_EVERY

STEPS, REPEATS = 48, 7


def measured(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each call, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(REPEATS + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if repeat:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def bare_brax(num_envs: int) -> Callable[[], Any]:
    """48 vector steps of brax's own Ant with given random actions, and nothing else."""
    env = brax_envs.get_environment("ant", backend="mjx")
    devices = resolve({}, platform()).devices
    reset = shards.jit(jax.vmap(env.reset), devices, (shards.SPLIT,), shards.SPLIT)
    state = reset(jax.random.split(jax.random.key(0), num_envs))
    actions = jax.random.uniform(jax.random.key(1), (STEPS, num_envs, 8), minval=-1, maxval=1)

    def run(state: Any, actions: jax.Array) -> Any:
        return jax.lax.scan(lambda c, x: (jax.vmap(env.step)(c, x), None), state, actions)[0]

    specs = (shards.SPLIT, shards.SPLIT_SECOND)
    jitted = shards.jit(run, devices, specs, shards.SPLIT)
    return lambda: jitted(state, actions)


def filled(loop: loops.Loop, config: Config) -> Any:
    """A state whose environments have begun."""
    state = loops.jit_init(loop, config)()
    return shards.jit(loop.refill, loop.shards, (shards.STATE,), shards.STATE)(state)


def collecting(num_envs: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """48 vector steps of act, step, auto-reset, quarantine, insert, with their refills; and these alone."""
    options = {"num_envs": num_envs, "replay_capacity": 250_000, "updates_per_env_step": 1}
    config = resolve(options, platform())
    loop = loops.build(config, BraxTask("ant"))
    state = [filled(loop, config)]

    def group(state: Any, _: None) -> tuple[Any, Any]:
        return jax.lax.scan(lambda c, _: loop.collect(c), loop.refill(state), length=REFILL_EVERY)

    refills = STEPS // REFILL_EVERY

    def repeated(body: Callable[[Any, None], tuple[Any, Any]]) -> Any:
        def run(state: Any) -> Any:
            return jax.lax.scan(body, state, length=refills)[0]

        return shards.jit(run, loop.shards, (shards.STATE,), shards.STATE, donate_argnums=(0,))

    collect, refill = repeated(group), repeated(lambda state, _: (loop.refill(state), None))

    def call(program: Callable[[Any], Any]) -> Callable[[], Any]:
        def run() -> Any:
            state[0] = program(state[0])
            return state[0].members.env_steps

        return run

    return call(collect), call(refill)


def chunk_and_parts() -> dict[str, Callable[[], Any]]:
    """A chunk of the quick preset; its physics alone; its updates alone (on a batch that stays)."""
    config = resolve({"warmup_env_steps": 0}, platform())
    loop = loops.build(config, BraxTask("ant"))
    schedule = loop.schedule
    state = [filled(loop, config)]
    first = filled(loop, config)
    chunk = loops.jit_chunk(loop)

    def whole() -> Any:
        state[0], metrics = chunk(state[0])
        return metrics

    task, steps = loop.env.task, schedule.vector_steps
    actions = jax.random.uniform(
        jax.random.key(1), (steps, config.num_envs, task.action_size), minval=-1, maxval=1
    )

    def step(carry: Any, action: jax.Array) -> tuple[Any, jax.Array]:
        out = jax.vmap(task.step)(carry, action)
        return out.state, out.reward

    def all_steps(env: Any, actions: jax.Array) -> jax.Array:
        envs = jax.tree.map(lambda x: x[0], env.task)
        return jax.lax.scan(step, envs, actions)[1].sum(axis=0)

    physics = shards.jit(all_steps, loop.shards, (shards.SPLIT_SECOND, shards.SPLIT_SECOND), shards.SPLIT)
    rounds = schedule.total_updates // schedule.updates

    def all_updates(member: Any, key: jax.Array) -> Any:
        member = jax.tree.map(lambda x: x[0], member)
        shape = (schedule.updates, loop.batch_size)
        obs = jax.random.normal(key, (*shape, task.obs_size))
        action = jnp.tanh(jax.random.normal(key, (*shape, task.action_size)))
        ones = jnp.ones(shape)
        batch = loops.Batch(obs, action, ones, obs, 0 * ones, ones)

        def update(learner: Any, _: None) -> tuple[Any, Any]:
            return loop.td3.update_block(learner, member.hyper, batch, action, jnp.bool_(True))

        return jax.lax.scan(update, member.learner, length=rounds)[1]

    learn = shards.jit(all_updates, loop.shards, (shards.STATE.members, shards.ALIKE), shards.ALIKE)
    return {
        "chunk": whole,
        "physics": lambda: physics(first.members.env, actions),
        "updates": lambda: learn(first.members, jax.random.key(2)),
    }


def main() -> None:
    """Print the tables."""
    prepare_jax()
    n = 512
    collect, refill = collecting(n)
    t = measured({"brax": bare_brax(n), "collect": collect, "refill": refill})
    for name, label in (("brax", "bare brax"), ("collect", "collect")):
        print(f"{label:<20} {n * STEPS / t[name]:8,.0f} steps/s   {t['brax'] / t[name]:.3f} of bare brax")
    print(f"resets: {t['refill'] / t['brax']:.1%} of stepping")
    t = measured(chunk_and_parts())
    parts = t["physics"] + t["updates"]
    for name, seconds in t.items():
        print(f"{name:<20} {seconds:8.3f} s")
    print(f"chunk / (physics + updates): {t['chunk'] / parts:.3f}")


if __name__ == "__main__":
    main()
