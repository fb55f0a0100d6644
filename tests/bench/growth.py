"""Cost against work: ``python tests/bench/growth.py FOLDER [envs members replay devices]``.

One thing grows at a time, from a base of `quick` (128 environments on one device, an update after every
vector step): environments to 8,192, members to 64, the replay to 10,000,000 transitions, devices to 8. Each
point is a process of its own that compiles one chunk and runs it a few times; it is kept in
FOLDER/growth.jsonl, and what is there is not measured again. Then FOLDER/growth.md, a table, and
FOLDER/growth.png.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

AXES = {
    "envs": (1, 4, 16, 64, 256, 1024, 2048, 4096, 8192),
    "members": (1, 2, 4, 8, 16, 32, 64),
    "replay": (10_000, 100_000, 1_000_000, 10_000_000),
    "devices": (1, 2, 4, 8),
}
BASE = {"envs": 128, "members": 1, "replay": 100_000, "devices": 1}
CHUNKS = 4
"""Of each point; the first is not counted."""
COLUMNS = {
    "compile_s": "compiling, s",
    "state_mb": "state, MB",
    "workspace_mb": "workspace, MB",
    "vector_step_ms": "vector step with its update, ms",
    "env_steps_per_s": "environment steps/s, all members",
}


def measure(axis: str, value: int) -> dict[str, Any]:
    """One point, in this process."""
    from td3_brax.runs.device import on_accelerator, platform, prepare_jax

    work = BASE | {axis: value}
    prepare_jax(devices=work["devices"])
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    from td3_brax.algorithm import build, shards
    from td3_brax.envs.registry import make_task
    from td3_brax.presets import resolve
    from td3_brax.runs import memory

    envs, devices = work["envs"], work["devices"]
    steps = max(8, min(256, 8192 // envs))
    options = {"num_envs": envs, "replay_capacity": work["replay"], "devices": devices}
    options |= {"updates_per_env_step": 1 / envs, "report_every": steps * envs, "warmup_env_steps": 0}
    config = resolve(options, platform())
    program = build.build(config, make_task(config), side_by_side=on_accelerator())
    members = [dataclasses.replace(config, seed=seed) for seed in range(work["members"])]
    specs = (shards.SPLIT_STATE,), (shards.SPLIT_STATE, shards.REPLICATED)
    init = shards.jit(lambda: build.start(program, members), devices, (), shards.SPLIT_STATE)
    state = init()
    began = time.perf_counter()
    chunk = shards.jit(program.train_chunk, devices, *specs, donate_argnums=(0,)).lower(state).compile()
    compiled, seconds = time.perf_counter() - began, []
    for _ in range(CHUNKS):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(chunk(state))
        seconds.append(time.perf_counter() - began)
    vector_step = statistics.median(seconds[1:]) / program.schedule.vector_steps
    return {
        "axis": axis,
        "value": value,
        "device": jax.devices()[0].device_kind,
        "compile_s": compiled,
        "state_mb": memory.tree_bytes(state) / 1e6,
        "workspace_mb": memory.workspace_bytes(chunk) / 1e6,
        "vector_step_ms": 1e3 * vector_step,
        "env_steps_per_s": envs * len(members) / vector_step,
    }


def table(points: list[dict[str, Any]]) -> str:
    """All points, in Markdown."""
    lines = ["| what grows | to | " + " | ".join(COLUMNS.values()) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for point in points:
        cells = [f"{point[name]:,.4g}" if point[name] < 1e4 else f"{point[name]:,.0f}" for name in COLUMNS]
        lines.append(f"| {point['axis']} | {point['value']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(points: list[dict[str, Any]], path: Path) -> None:
    """Time of a vector step, and the rate, against each axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(12, 5.5), layout="constrained")
    plots = figure.subplots(2, len(AXES), sharey="row", sharex="col")
    for column, (axis, values) in enumerate(AXES.items()):
        own = sorted((p for p in points if p["axis"] == axis), key=lambda p: p["value"])
        for row, name in enumerate(("vector_step_ms", "env_steps_per_s")):
            plot = plots[row, column]
            plot.loglog([p["value"] for p in own], [p[name] for p in own], "o-")
            plot.grid(alpha=0.3)
            plot.spines[["top", "right"]].set_visible(False)
            plot.yaxis.set_major_formatter("{x:,.0f}")
            plot.set_xticks(values[:: -max(1, len(values) // 3)])
            plot.set_xticks([], minor=True)
            plot.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
        plots[0, 0].set_ylabel("vector step with its update, ms")
        plots[1, 0].set_ylabel("environment steps/s, all members")
        plots[1, column].set_xlabel(axis)
    figure.savefig(path, dpi=100)


def main(folder: Path, axes: list[str]) -> None:
    """Measure what is not there yet; then the table and the picture of all that is."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "growth.jsonl"
    points = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    there = {(point["axis"], point["value"]) for point in points}
    for axis in axes:
        for value in AXES[axis]:
            if (axis, value) in there:
                continue
            argv = [sys.executable, __file__, "--point", axis, str(value)]
            done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                print(f"{axis} {value:,}: ended with {done.returncode}", flush=True)
                break  # larger ones will too
            point = json.loads(done.stdout.splitlines()[-1])
            points.append(point)
            with kept.open("a") as file:
                file.write(json.dumps(point) + "\n")
            print(f"{axis} {value:,}: {point['vector_step_ms']:.4g} ms", flush=True)
    order = list(AXES)
    points.sort(key=lambda point: (order.index(point["axis"]), point["value"]))
    (folder / "growth.md").write_text(table(points))
    picture(points, folder / "growth.png")


if __name__ == "__main__":
    if sys.argv[1] == "--point":
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main(Path(sys.argv[1]), sys.argv[2:] or list(AXES))
