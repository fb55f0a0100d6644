"""Device memory of a compiled chunk with a 1M-transition replay, and copies as large as the replay."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from td3_brax.algorithm import build
from td3_brax.algorithm.shards import split
from td3_brax.envs.tasks.brax import BraxTask
from td3_brax.presets import resolve
from td3_brax.runs.device import on_accelerator, platform, prepare_jax
from td3_brax.runs.memory import tree_bytes

MIB = 2**20


def main() -> None:
    """Print arguments + workspace + outputs - aliased, beside replay and environment states."""
    prepare_jax()
    for num_envs in (128, 2048):
        config = resolve({"replay_capacity": 1_000_000, "num_envs": num_envs}, platform())
        loop = build.build(config, BraxTask("ant"), side_by_side=on_accelerator())
        shapes = jax.eval_shape(build.jit_init(loop, config))
        memory = build.jit_chunk(loop).lower(shapes).compile().memory_analysis()
        shapes = split(loop.shards).share(shapes)
        total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        total += memory.output_size_in_bytes - memory.alias_size_in_bytes
        replay, envs = tree_bytes(shapes.replay), tree_bytes(shapes.members.env)
        rest = total - replay - envs
        print(
            f"{num_envs} environments on {loop.shards} devices, each {total / MIB:.1f} MiB = replay "
            f"{replay / MIB:.1f} + environments {envs / MIB:.1f} + {rest / MIB:.1f} (workspace "
            f"{memory.temp_size_in_bytes / MIB:.1f}, aliased {memory.alias_size_in_bytes / MIB:.1f})"
        )


if __name__ == "__main__":
    main()
