"""``td3-brax bench`` on this device: time a run's parts, compare them with limits and other trainers."""

from __future__ import annotations

import dataclasses
from typing import Any

from td3_brax.algorithm.replay import row_size
from td3_brax.commands.bench import peers as peer_trainers
from td3_brax.commands.bench.measure import COPIED_FLOATS, REPEATS, copying, medians, product_flops, products
from td3_brax.commands.bench.parts import UPDATES, make_members, make_parts, work
from td3_brax.config import Config
from td3_brax.envs.registry import make_task
from td3_brax.envs.task import Task
from td3_brax.runs.device import on_accelerator
from td3_brax.runs.versions import machine

FACTORS = (0.25, 4)
"""Parts are timed again with these multiples of the number of environments and of the batch size."""
UNITS = {"update": "updates/s", "sample": "batches/s"}

Numbers = dict[str, Any]
"""Numbers as ``--json`` writes them."""


def run(config: Config, members: int, peers: bool, plot: str | None) -> Numbers:
    """Measure, print and plot; return what ``--json`` writes.

    Args:
        members: number of members in the largest program.
        peers: whether to measure other trainers, too, if they are installed.
        plot: file for the figure; None for no figure.
    """
    task, side_by_side = make_task(config), on_accelerator()
    print("; ".join(f"{name} {value}" for name, value in machine().items()))
    print(
        f"{config.env} ({config.preset}): {config.num_envs:,} environments, batch {config.batch_size:,}, "
        f"{list(config.hidden_sizes)}, {config.num_atoms} atoms, {config.compute_dtype}, "
        f"{config.devices} device{'s' * (config.devices > 1)}; medians of {REPEATS}\n"
    )
    parts = table_of_parts(config, task, side_by_side)
    print(f"{'part':<10}{'share of limit':>14}{'rate':>16}  {'':<12}limit")
    for row in parts:
        share = f"{row['share']:.0%}" if row["share"] is not None else ""
        print(f"{row['part']:<10}{share:>14}{row['rate']:>16,.0f}  {row['unit']:<12}{row['limit']}")
    points = over_sizes(config, task, side_by_side, members, {row["part"]: row["rate"] for row in parts})
    print(f"\n{'option':<12}{'value':>8}{'part':>10}{'rate':>14}{'relative':>14}")
    for point in points:
        print(
            f"{point['of']:<12}{point['value']:>8,}{point['part']:>10}{point['rate']:>14,.0f}"
            f"{point['ratio']:>14.2f}"
        )
    peer_rows, missing = peer_trainers.run(config, task) if peers else ([], [])
    if peers:
        print(f"\n{'trainer':<36}{'ours/theirs':>12}{'rate':>14}")
        for row in peer_rows:
            print(f"{row['name']:<36}{row['ratio']:>12.2f}{row['rate']:>14,.0f} {row['unit']}")
    if missing:
        print(f"left out: {'; '.join(missing)}")
    if plot:
        draw(parts, points, plot)
    return {"config": dataclasses.asdict(config), "parts": parts, "over": points, "peers": peer_rows}


def table_of_parts(config: Config, task: Task, side_by_side: bool) -> list[Numbers]:
    """Time each part; return its rate and its share of a limit.

    The limit is the rate of the matrix products, of copying, or of the other parts.
    """
    obs, action = task.obs_size, task.action_size
    calls = {
        **make_parts(config, task, side_by_side),
        "products": products(config, obs, action, UPDATES),
        "copying": copying(),
    }
    seconds = medians(calls, REPEATS)
    done = work(config, task)
    bandwidth = 2 * 4 * COPIED_FLOATS / seconds["copying"]
    limit = max(UPDATES // config.policy_delay, 1) * config.policy_delay / seconds["products"]
    rates = {part: done[part] / seconds[part] for part in done}
    row_bytes = 4 * row_size(obs, action)
    updates = config.updates_per_env_step
    # The limit of a memory-bound part: it reads and writes each row once.
    insert, sample = bandwidth / (2 * row_bytes), bandwidth / (2 * row_bytes * config.batch_size)
    both = 1 / (1 / rates["physics"] + updates / rates["update"])
    limits: dict[str, tuple[float | None, str]] = {
        "physics": (None, ""),
        "collect": (rates["physics"], "physics alone"),
        "insert": (insert, f"copying, {bandwidth / 1e9:.1f} GB/s"),
        "sample": (sample, f"copying, {bandwidth / 1e9:.1f} GB/s"),
        "update": (
            limit,
            f"matrix products alone, {limit:,.0f}/s or "
            f"{limit * product_flops(config, obs, action) / 1e9:,.0f} GFLOP/s",
        ),
        "chunk": (both, f"physics and updates alone; {updates:g} updates per step"),
    }
    return [
        {
            "part": part,
            "rate": rates[part],
            "unit": UNITS.get(part, "steps/s"),
            "share": None if most is None else rates[part] / most,
            "limit": name,
        }
        for part, (most, name) in limits.items()
    ]


def over_sizes(
    config: Config, task: Task, side_by_side: bool, members: int, rates: dict[str, float]
) -> list[Numbers]:
    """Time parts again with fewer and more environments, smaller and larger batches, and several members.

    Args:
        rates: rates at the run's sizes, for comparison.
    """
    points = []

    def add(option: str, value: int, part: str, rate: float) -> None:
        points.append({"of": option, "value": value, "part": part, "rate": rate, "ratio": rate / rates[part]})

    for option, names in (("num_envs", ("physics", "collect")), ("batch_size", ("sample", "update"))):
        for factor in FACTORS:
            value = round(getattr(config, option) * factor)
            if value < 1 or value % config.devices or (option == "batch_size" and value > config.capacity):
                continue
            ratio = config.updates_per_env_step / (factor if option == "num_envs" else 1)
            sized = dataclasses.replace(config, **{option: value, "updates_per_env_step": ratio})
            calls = make_parts(sized, task, side_by_side)
            seconds, done = medians({name: calls[name] for name in names}), work(sized, task)
            for name in names:
                add(option, value, name, done[name] / seconds[name])
    single = dataclasses.replace(config, devices=1)
    for count in sorted({1, members}):
        seconds = medians({"chunk": make_members(single, task, side_by_side, count)})
        add("members", count, "chunk", count * work(single, task)["chunk"] / seconds["chunk"])
    return points


def draw(parts: list[Numbers], points: list[Numbers], path: str) -> None:
    """Draw the shares of the limits and the rates over sizes, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    limited = [row for row in parts if row["share"] is not None]
    left.barh([row["part"] for row in limited][::-1], [row["share"] for row in limited][::-1])
    left.axvline(1, color="black", linewidth=1)
    left.set_xlabel("share of the limit")
    labels = [f"{p['part']}, {p['of']} {p['value']:,}" for p in points]
    right.barh(labels[::-1], [p["ratio"] for p in points][::-1])
    right.axvline(1, color="black", linewidth=1)
    right.set_xlabel("rate relative to the run's sizes")
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)
