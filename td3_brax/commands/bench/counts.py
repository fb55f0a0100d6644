"""Count what a training program would do on a GPU, and compare the counts with earlier ones."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import PurePath
from typing import Any

import jax

from td3_brax.algorithm import build
from td3_brax.algorithm.schedule import Schedule
from td3_brax.commands.bench import aot
from td3_brax.commands.bench.graphs import compile_and_count
from td3_brax.config import Config
from td3_brax.envs.task import Task
from td3_brax.runs.memory import tree_bytes

Counted = dict[str, Any]
"""Numbers by the name of what they count; some, such as ``modules`` and ``kinds``, are mappings."""
TOLERANCE = 1.1
"""A number has risen if it is more than this times the earlier one."""
SCOPE_UNITS = {"collect": "per vector step", "learn": "per update", "refill": "per refill"}
"""The named scopes of a chunk, and the unit in which their operations are counted."""
COMPILER = "the compiler's own"
"""Module of operations without a source line; most are copies of what loops carry."""
LARGE_FRACTION = 10
"""A write counts as one of a large buffer from the replay's bytes divided by this."""


def module(source: str) -> str:
    """Shorten a source path to start at its package, as in ``mujoco/mjx/_src/solver.py``."""
    parts = PurePath(source).parts
    packages = [i for i, part in enumerate(parts) if part == "site-packages"]
    start = packages[-1] + 1 if packages else max(len(parts) - 2, 0)
    if not packages and "td3_brax" in parts:
        start = len(parts) - 1 - parts[::-1].index("td3_brax")
    return "/".join(parts[start:]) or COMPILER


def describe(compiled: Any, submissions: int | None, large_bytes: int) -> Counted:
    """Count what a call of any compiled program does.

    Args:
        submissions: how often the host submits work, from :func:`.graphs.compile_and_count`.
        large_bytes: size from which a write counts as one of a large buffer.
    """
    return _described(aot.count(compiled), submissions, large_bytes)


def _described(counts: aot.Counts, submissions: int | None, large_bytes: int) -> Counted:
    """Name the numbers in ``counts``."""
    modules: Counter[str] = Counter()
    for operation in counts.details:
        modules[module(operation.source)] += operation.times
    return {
        "device operations": counts.operations,
        "device operations in the program": len(counts.details),
        "host submissions": submissions,
        "host operations": len(counts.host),
        "loops of unknown length": len(counts.unknown_loops),
        "conditionals": len(counts.conditionals),
        "writes of large buffers": sum(o.times for o in counts.large(large_bytes)),
        "bytes of arguments": counts.argument_bytes,
        "bytes not updated in place": counts.argument_bytes - counts.alias_bytes,
        "bytes of workspace": counts.temp_bytes,
        "bytes written": sum(o.bytes * o.times for o in counts.details),
        "flops of matrix products": sum(o.flops * o.times for o in counts.details),
        "kinds": dict(sorted(counts.by_kind.items())),
        "library calls": dict(sorted(counts.custom_calls.items())),
        "modules": dict(modules.most_common()),
    }


def count_chunk(config: Config, task: Task, members: int, target: str) -> Counted:
    """Compile a chunk of ``members`` members for ``target`` and count what it does.

    Raises:
        AotError: it can't be compiled here.
    """
    program = build.build(config, task)
    state = jax.eval_shape(lambda: build.start(program, [config] * members))
    options = {"xla_gpu_deterministic_ops": True} if config.deterministic else {}
    compiled, submissions = compile_and_count(
        program.train_chunk, (state,), options, donate_argnums=0, target=target
    )
    return counts_of(compiled, submissions, program.schedule, tree_bytes(state.replay.rows))


def counts_of(compiled: Any, submissions: int | None, schedule: Schedule, replay_bytes: int) -> Counted:
    """Count what a compiled chunk does, per vector step, update and refill, and per call."""
    counts = aot.count(compiled)
    scopes = counts.by_scope
    runs = {"collect": schedule.vector_steps, "learn": schedule.total_updates, "refill": schedule.groups}
    per = {f"{name} {SCOPE_UNITS[name]}": scopes.get(name, 0) / times for name, times in runs.items()}
    per["elsewhere per vector step"] = scopes.get("other", 0) / schedule.vector_steps
    if submissions is not None:
        per["host submissions per vector step"] = submissions / schedule.vector_steps
    return per | _described(counts, submissions, replay_bytes // LARGE_FRACTION)


def count_brax(target: str, num_envs: int) -> Counted:
    """Count a step of brax's own Ant (mjx) alone."""
    from td3_brax.envs.suppress import suppress_warnings
    from td3_brax.envs.tasks.brax import brax_envs

    with suppress_warnings():
        env = brax_envs.get_environment("ant", backend="mjx")
    state = jax.eval_shape(jax.vmap(env.reset), jax.random.split(jax.random.key(0), num_envs))
    action = jax.ShapeDtypeStruct((num_envs, env.action_size), "float32")
    compiled = compile_and_count(jax.vmap(env.step), (state, action), donate_argnums=0, target=target)
    return describe(*compiled, tree_bytes(state))


def count_rejax(target: str, config: Config) -> dict[str, Counted]:
    """Count rejax's TD3, if it is installed: its training iteration, and its updates alone.

    An iteration is ``policy_delay`` vector steps with their updates. An update is one update of the critics
    with its share of an actor update.
    """
    if importlib.util.find_spec("rejax") is None:
        return {}
    from td3_brax.commands.bench import peer_rejax

    algorithm = peer_rejax.trainer_for(config, config.capacity)
    state = jax.eval_shape(algorithm.init_state, jax.random.key(0))
    rows = tree_bytes(state.replay_buffer.data)
    programs = {
        "rejax's TD3, an iteration": algorithm.train_iteration,
        "rejax's TD3, updates": partial(peer_rejax.update, algorithm),
    }
    counted = {
        name: describe(
            *compile_and_count(program, (state,), donate_argnums=0, target=target), rows // LARGE_FRACTION
        )
        for name, program in programs.items()
    }
    updates = counted["rejax's TD3, updates"]
    updates["learn per update"] = updates["device operations"] / config.policy_delay
    return counted


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """List what rose by more than a tenth, and the modules whose operations increased; one line each."""
    rises = []
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, int | float) and old is not None and value > old * TOLERANCE:
            rises.append(f"{name}: {value:,.6g}, was {old:,.6g}")
    if rises:
        for name, value in now["modules"].items():
            old = before["modules"].get(name, 0)
            if value > old:
                rises.append(f"  device operations of {name}: {value:,}, was {old:,}")
    return rises
