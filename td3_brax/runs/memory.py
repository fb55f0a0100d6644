"""Check the memory that a run needs against what is available, before compiling and before allocating."""

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
    """Return the bytes of all arrays in ``tree``, which may be shapes only."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(device: jax.Device) -> int | None:
    """Return the bytes of memory available on the device; None if unknown."""
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


def shards_per_memory(shards: int, device: jax.Device) -> int:
    """Return how many shards share the memory that :func:`device_bytes` returns: on a CPU, all of a host."""
    return -(-shards // hosts.count()) if device.platform == "cpu" else 1


def check_state(state: Any, layout: Layout, device: jax.Device) -> None:
    """Check that a state (shapes suffice) fits, before anything is compiled.

    Raises:
        ConfigError: the state does not fit; names the option to lower, and the largest replay that fits.
    """
    available, times = device_bytes(device), shards_per_memory(layout.devices, device)
    part = layout.share(state)
    needed = tree_bytes(part) * times
    if available is None or needed <= available:
        return
    replay = tree_bytes(part.replay) * times
    rest = needed - replay
    if rest > available:
        envs, networks = (tree_bytes(x) * times for x in (part.members.env, part.members.learner))
        raise ConfigError(
            "num_envs",
            state.members.env.steps.shape[1],
            f"the environments need {envs / GB:.2f} GB and the networks {networks / GB:.2f} GB, but only "
            f"{available / GB:.2f} GB are free; lower {'num_envs' if envs > networks else 'hidden_sizes'}",
        )
    rows = state.replay.rows.shape[0]
    raise ConfigError(
        "replay_capacity",
        rows,
        f"the replay needs {replay / GB:.2f} GB and the rest {rest / GB:.2f} GB, but only "
        f"{available / GB:.2f} GB are free; lower replay_capacity to "
        f"{largest_replay(state, (available - rest) / times, layout):d} or less",
    )


def make_plan(state: Any, workspace: int, layout: Layout) -> dict[str, int]:
    """Return the bytes on each device of each part of a state (shapes suffice), and of the workspace."""
    part = layout.share(state)
    learner = part.members.learner
    sizes = {
        "replay": tree_bytes(part.replay),
        "environments": tree_bytes(part.members.env),
        "networks": tree_bytes(learner) - tree_bytes((learner.actor_opt, learner.critic_opt)),
        "optimiser": tree_bytes((learner.actor_opt, learner.critic_opt)),
    }
    return sizes | {"the rest": tree_bytes(part) - sum(sizes.values()), "workspace": workspace}


def largest_replay(state: Any, available: float, layout: Layout) -> int:
    """Return the transitions of a replay that fits in 90% of ``available`` bytes on each device."""
    return int(max(available, 0) * 0.9 * state.replay.rows.shape[0] / tree_bytes(layout.share(state).replay))


def workspace_bytes(compiled: jax.stages.Compiled) -> int:
    """Return the bytes that a compiled program needs in addition to its arguments and results."""
    analysis: Any = compiled.memory_analysis()
    return int(analysis.temp_size_in_bytes) if analysis else 0


def check_program(state: Any, workspace: int, layout: Layout, device: jax.Device) -> None:
    """Check that a program's state and workspace (bytes per shard) fit, before anything is allocated.

    Raises:
        ConfigError: they do not fit; names the options to lower.
    """
    available, times = device_bytes(device), shards_per_memory(layout.devices, device)
    workspace, needed = workspace * times, tree_bytes(layout.share(state)) * times
    if available is not None and needed + workspace > available:
        raise ConfigError(
            "num_envs",
            state.members.env.steps.shape[1],
            f"the program needs {workspace / GB:.2f} GB of workspace and {needed / GB:.2f} GB of state, but "
            f"only {available / GB:.2f} GB are free; lower num_envs, batch_size or replay_capacity",
        )
