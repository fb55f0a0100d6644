"""``td3-brax plan``: predict the memory a run needs on each device, without allocating it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from td3_brax.cli import guarded, parse_options, train_parser
from td3_brax.option import ConfigError, nearest
from td3_brax.presets import CPU_DEVICES, resolve
from td3_brax.runs.device import on_accelerator, platform, prepare_jax, resolve_devices
from td3_brax.runs.formatting import counted

GPUS = {
    "t4": 16,
    "l4": 24,
    "a10g": 24,
    "rtx4090": 24,
    "v100": 32,
    "a100": 40,
    "l40s": 48,
    "a100-80": 80,
    "h100": 80,
    "h200": 141,
    "b200": 180,
}
"""GB of memory by the name of the GPU."""
JAX_SHARE = 0.75
"""Share of a GPU's memory that JAX takes, unless ``XLA_PYTHON_CLIENT_MEM_FRACTION`` is set."""


def job(argv: Sequence[str]) -> int:
    """Print the table; return the exit code: 0 if the run fits, 1 if it does not."""
    parser = train_parser("plan", "Predict the memory a run needs on each device, without allocating it.")
    parser.add_argument(
        "--gpu", metavar="NAME", help=f"plan for this GPU, which need not be here [{', '.join(GPUS)}]"
    )
    explicit, others = parse_options(parser, argv)
    gpu = others.get("gpu")
    if gpu is not None and gpu not in GPUS:
        raise ConfigError("gpu", gpu, f"must be one of {', '.join(GPUS)}{nearest(gpu, GPUS)}")
    prepare_jax(explicit.get("deterministic", False), explicit.get("devices", CPU_DEVICES))
    import jax

    from td3_brax.algorithm import build, shards
    from td3_brax.commands.bench import aot
    from td3_brax.envs.registry import make_task
    from td3_brax.runs import memory

    config = resolve_devices(resolve(explicit, "gpu" if gpu else platform()))
    program = build.build(config, make_task(config), side_by_side=gpu is not None or on_accelerator())
    shapes = jax.eval_shape(build.jit_init(program, config))
    device, layout = jax.devices()[0], shards.split(config.devices)
    share = memory.shards_per_memory(config.devices, device) if gpu is None else 1
    available = memory.device_bytes(device) if gpu is None else int(GPUS[gpu] * JAX_SHARE * memory.GB)
    compiled_for = device.device_kind
    if gpu is None or config.devices > 1:
        workspace = memory.workspace_bytes(build.jit_chunk(program).lower(shapes).compile())
    else:
        try:
            compiled = aot.compile_for(program.train_chunk, (shapes,), donate_argnums=(0,))
            workspace, compiled_for = memory.workspace_bytes(compiled), "h100"
        except aot.AotError as error:
            print(f"note: {error}; the workspace is estimated by compiling for {device.device_kind} instead")
            workspace = memory.workspace_bytes(build.jit_chunk(program).lower(shapes).compile())
    sizes = memory.make_plan(shapes, workspace, layout)

    name = gpu or device.device_kind
    envs = counted(config.num_envs, "environment")
    print(f"{config.env} ({config.preset}) in {envs}, on {config.devices} x {name}; memory of each device:")
    rows = f"{config.capacity:,} transitions"
    notes = {"replay": rows, "workspace": f"of a chunk, compiled for {compiled_for}"}
    for part, size in sizes.items():
        print(f"  {part:<14}{size / memory.GB:9.3f} GB  {notes.get(part, '')}".rstrip())
    needed = sum(sizes.values())
    print(f"  {'needed':<14}{needed / memory.GB:9.3f} GB")
    if available is None:
        print("the device does not report how much memory it has")
        return 0
    fits = needed * share <= available
    shared = f", shared by {share} devices" if share > 1 else ""
    print(f"  {'available':<14}{available / memory.GB:9.3f} GB{shared}: {'fits' if fits else 'does not fit'}")
    most = memory.largest_replay(shapes, available / share - (needed - sizes["replay"]), layout)
    print(
        f"the largest replay that fits: --replay_capacity={most:d}"
        if most > 0
        else "no replay fits; lower --num_envs, --batch_size or --hidden_sizes"
    )
    return 0 if fits else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
