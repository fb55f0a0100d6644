"""A chunk and its parts, each as a separate program on the run's devices and at its sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.algorithm import build, replay, shards
from td3_brax.algorithm import loop as loops
from td3_brax.algorithm.state import Batch, Replay
from td3_brax.commands.bench.measure import Calls
from td3_brax.config import Config
from td3_brax.envs.state import Transition
from td3_brax.envs.task import Task

STEPS, UPDATES = 32, 128
"""Vector steps and updates per call of a part; enough that the overhead of a call does not matter."""


def repeat_on_state(loop: loops.Loop, body: Callable[[Any], Any], times: int) -> Callable[[Any], Any]:
    """Jit a program that applies ``body`` to a run's state ``times`` times; the state is donated."""

    def run(state: Any) -> Any:
        return jax.lax.scan(lambda c, _: (body(c), None), state, length=times)[0]

    return shards.jit(run, loop.shards, (shards.SPLIT_STATE,), shards.SPLIT_STATE, donate_argnums=(0,))


def update_in_place(program: Callable[[Any], Any], state: list[Any]) -> Callable[[], Any]:
    """Make a call that replaces the state in the list with the program's result."""

    def call() -> Any:
        state[0] = program(state[0])
        return state[0].members.env_steps

    return call


def make_parts(config: Config, task: Task, side_by_side: bool) -> Calls:
    """Make the calls ``physics``, ``collect``, ``insert``, ``sample``, ``update`` and ``chunk``."""
    loop = build.build(config, task, side_by_side)
    schedule, count = loop.schedule, loop.schedule.updates_together
    refill = repeat_on_state(loop, loop.refill, 1)

    start, chunk = build.jit_init(loop, config), build.jit_chunk(loop)
    member = refill(start()).members
    state = [refill(start())]

    def whole() -> Any:
        state[0], metrics = chunk(state[0])
        return metrics

    shape = (STEPS, config.num_envs, task.action_size)
    actions = jax.random.uniform(jax.random.key(1), shape, minval=-1, maxval=1)

    def step(carry: Any, action: jax.Array) -> tuple[Any, jax.Array]:
        out = jax.vmap(task.step)(carry, action)
        return out.state, out.reward

    def all_steps(env: Any, actions: jax.Array) -> jax.Array:
        return jax.lax.scan(step, jax.tree.map(lambda x: x[0], env.task), actions)[1].sum(axis=0)

    split = (shards.SPLIT_SECOND, shards.SPLIT_SECOND)
    physics = shards.jit(all_steps, loop.shards, split, shards.SPLIT)

    def insert(ring: Replay) -> Replay:
        """Add the rows of a vector step, with different values each time."""
        mark = jnp.float32(ring.position)
        envs = loop.env.num_envs
        obs = jnp.full((1, envs, task.obs_size), mark)
        flag = jnp.ones((1, envs))
        action = jnp.zeros((1, envs, task.action_size))
        return replay.add(ring, Transition(obs, action, flag, obs, 0 * flag, 0 * flag, flag))

    def inserting(state: Any) -> Any:
        return state.replace(replay=insert(state.replay))

    def sampling(state: Any) -> Any:
        m = state.members
        keys = jax.vmap(jax.random.fold_in)(m.key, m.env_steps)
        rows = replay.sample(
            state.replay, keys, UPDATES * loop.batch_size, task.obs_size, loop.env.num_envs, loop.n_step,
            m.hyper.gamma,
        )  # fmt: skip
        # Use every field, so that none is optimized away, and change the key of the next draw.
        seen = sum(jnp.int32(jnp.isfinite(leaf).sum()) for leaf in jax.tree.leaves(rows))
        return state.replace(members=m.replace(env_steps=m.env_steps + seen // jnp.maximum(seen, 1)))

    def drawn() -> Batch:
        sizes = (count, loop.batch_size)
        obs = jax.random.normal(jax.random.key(2), (*sizes, task.obs_size))
        action = jnp.tanh(jax.random.normal(jax.random.key(3), (*sizes, task.action_size)))
        ones = jnp.ones(sizes)
        return Batch(obs, action, ones, obs, 0 * ones, ones)

    def updating(learner: Any, hyper: Any, batch: Batch) -> Any:
        first, hyper = jax.tree.map(lambda x: x[0], (learner, hyper))

        def block(learner: Any, _: None) -> tuple[Any, Any]:
            return loop.td3.update_block(learner, hyper, batch, batch.action, jnp.bool_(True))

        return jax.lax.scan(block, first, length=-(-UPDATES // count))[0]

    batch = shards.jit(drawn, loop.shards, (), shards.REPLICATED)()
    update = shards.jit(updating, loop.shards, (shards.REPLICATED,) * 3, shards.REPLICATED)

    def group(state: Any) -> Any:
        each = schedule.vector_steps // schedule.groups
        return jax.lax.scan(lambda c, _: (loop.collect(c)[0], None), loop.refill(state), length=each)[0]

    return {
        "physics": lambda: physics(member.env, actions),
        "collect": update_in_place(repeat_on_state(loop, group, 1), state),
        "insert": update_in_place(repeat_on_state(loop, inserting, STEPS), state),
        "sample": update_in_place(repeat_on_state(loop, sampling, 1), state),
        "update": lambda: update(member.learner, member.hyper, batch),
        "chunk": whole,
    }


def work(config: Config, task: Task) -> dict[str, float]:
    """Return the environment steps or updates that a call of each part does."""
    schedule = build.build(config, task).schedule
    updates = schedule.updates_together
    return {
        "physics": STEPS * config.num_envs,
        "collect": schedule.env_steps / schedule.groups,
        "insert": STEPS * config.num_envs,
        "sample": UPDATES,
        "update": -(-UPDATES // updates) * updates,
        "chunk": schedule.env_steps,
    }


def make_members(config: Config, task: Task, side_by_side: bool, count: int) -> Callable[[], Any]:
    """Make a call that runs a chunk of ``count`` members in one program on one device."""
    loop = build.build(config, task, side_by_side)
    configs = [config] * count
    state = [jax.jit(lambda: build.start(loop, configs))()]
    chunk = jax.jit(loop.train_chunk, donate_argnums=0)

    def call() -> Any:
        state[0], metrics = chunk(state[0])
        return metrics

    return call
