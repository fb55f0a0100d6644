"""What a run will hold on the device, against what is there: before compiling, and before allocating."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

from td3_brax.algorithm.shards import Layout
from td3_brax.option import ConfigError
from td3_brax.runs import hosts

GB = 1e9


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays in ``tree``, which may be shapes only."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(device: jax.Device) -> int | None:
    """Memory that the device can still give, or None where it can't be told."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return None if limit is None else int(limit) - int(stats.get("bytes_in_use", 0))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sharing(shards: int, device: jax.Device) -> int:
    """How many shards share the memory that :func:`device_bytes` names: those of a host's CPU."""
    return -(-shards // hosts.count()) if device.platform == "cpu" else 1


def check_state(state: Any, layout: Layout, device: jax.Device) -> None:
    """Refuse a state (shapes suffice) that does not fit, before anything is compiled.

    Raises:
        ConfigError: names the largest part's option and the largest replay that fits.
    """
    there, times = device_bytes(device), sharing(layout.devices, device)
    part = layout.share(state)
    needed = tree_bytes(part) * times
    if there is None or needed <= there:
        return
    replay = tree_bytes(part.replay) * times
    rest = needed - replay
    if rest > there:
        envs, networks = (tree_bytes(x) * times for x in (part.members.env, part.members.learner))
        raise ConfigError(
            "num_envs",
            state.members.env.steps.shape[1],
            f"environments need {envs / GB:.2f} GB and networks {networks / GB:.2f} GB, {there / GB:.2f} GB "
            f"are there; lower {'num_envs' if envs > networks else 'hidden_sizes'}",
        )
    rows = state.replay.rows.shape[0]
    raise ConfigError(
        "replay_capacity",
        rows,
        f"the replay needs {replay / GB:.2f} GB and the rest {rest / GB:.2f} GB, {there / GB:.2f} GB are "
        f"there; lower it to {largest_replay(state, (there - rest) / times, layout):d} or less",
    )


def make_plan(state: Any, workspace: int, layout: Layout) -> dict[str, int]:
    """Bytes on each device, by part: of a state (shapes suffice) and a compiled program's workspace."""
    part = layout.share(state)
    learner = part.members.learner
    sizes = {
        "replay": tree_bytes(part.replay),
        "environments": tree_bytes(part.members.env),
        "networks": tree_bytes(learner) - tree_bytes((learner.actor_opt, learner.critic_opt)),
        "optimiser": tree_bytes((learner.actor_opt, learner.critic_opt)),
    }
    return sizes | {"the rest": tree_bytes(part) - sum(sizes.values()), "workspace": workspace}


def largest_replay(state: Any, there: float, layout: Layout) -> int:
    """Transitions of a replay that takes at most ``there`` bytes of each device, less a tenth."""
    return int(max(there, 0) * 0.9 * state.replay.rows.shape[0] / tree_bytes(layout.share(state).replay))


def workspace_bytes(compiled: jax.stages.Compiled) -> int:
    """What a compiled program needs beside its arguments and results, as the compiler says."""
    analysis: Any = compiled.memory_analysis()
    return int(analysis.temp_size_in_bytes) if analysis else 0


def check_program(state: Any, workspace: int, layout: Layout, device: jax.Device) -> None:
    """Refuse a compiled program whose state and workspace (bytes per shard) do not fit, before allocating.

    Raises:
        ConfigError: says what to lower.
    """
    there, times = device_bytes(device), sharing(layout.devices, device)
    workspace, needed = workspace * times, tree_bytes(layout.share(state)) * times
    if there is not None and needed + workspace > there:
        raise ConfigError(
            "num_envs",
            state.members.env.steps.shape[1],
            f"the program needs {workspace / GB:.2f} GB of workspace beside {needed / GB:.2f} GB of state, "
            f"{there / GB:.2f} GB are there; lower num_envs, batch_size or replay_capacity",
        )
