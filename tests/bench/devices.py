"""What each device does where 1, 2, 4 and 8 share a run: ``python tests/bench/devices.py [OPTIONS]``.

Compiles one chunk for so many virtual CPU devices and counts, on each: operations, bytes written, bytes held,
and the collectives with the bytes that they reduce. Options are those of ``td3-brax train``.
"""

from __future__ import annotations

import dataclasses
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax

from td3_brax.algorithm import build, shards
from td3_brax.cli import parse_options, train_parser
from td3_brax.commands.bench import aot
from td3_brax.envs.registry import make_task
from td3_brax.presets import resolve
from td3_brax.runs.device import prepare_jax
from td3_brax.runs.memory import tree_bytes

explicit, _ = parse_options(train_parser(), sys.argv[1:])
prepare_jax()
config = resolve(explicit, "cpu")
task = make_task(config)
titles = "devices", "operations", "MB written", "MB held", "collectives", "per update", "MB reduced"
print(" ".join(f"{title:>12}" for title in titles), " (a chunk, each device)", flush=True)
for devices in (1, 2, 4, 8):
    program = build.build(dataclasses.replace(config, devices=devices), task, side_by_side=False)
    state = jax.eval_shape(build.jit_init(program, config))
    counts = aot.count(build.jit_chunk(program).lower(state).compile())
    reduced = [o for o in counts.details if o.kind.startswith("all-reduce")]
    learning = sum(o.times for o in reduced if o.scope == "learn") / program.schedule.total_updates
    row = (
        devices,
        counts.operations,
        sum(o.times * o.bytes for o in counts.details) / 1e6,
        tree_bytes(shards.split(devices).share(state)) / 1e6,
        sum(o.times for o in reduced),
        learning,
        sum(o.times * o.bytes for o in reduced) / 1e6,
    )
    print(" ".join(f"{value:>12,.6g}" for value in row), flush=True)
