"""4,096 environments for 20 chunks: finite, stable, and the process's peak memory."""

from __future__ import annotations

import os
import resource
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from td3_brax.algorithm import build
from td3_brax.envs.tasks.brax import BraxTask
from td3_brax.presets import resolve
from td3_brax.runs.device import platform, prepare_jax

OPTIONS = {
    "num_envs": 4096,
    "updates_per_env_step": 16 / 4096,
    "report_every": 16 * 4096,
    "warmup_env_steps": 16 * 4096,
}


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print a line per chunk; fail where anything is not finite."""
    prepare_jax()
    config = resolve(OPTIONS, platform())
    loop = build.build(config, BraxTask("ant"))
    state = build.jit_init(loop, config)()
    chunk = build.jit_chunk(loop).lower(state).compile()
    print(f"after compiling: peak {peak_mib():,.0f} MiB")
    for i in range(20):
        began = time.perf_counter()
        state, metrics = chunk(state)
        m = jax.tree.map(lambda x: float(x[0]), metrics)
        print(
            f"chunk {i + 1:2}: {m.env_steps:,.0f} steps, {m.updates:,.0f} updates, "
            f"{loop.schedule.env_steps / (time.perf_counter() - began):,.0f} steps/s, critic loss "
            f"{m.update.critic_loss:.3f}, q {m.update.q_mean:.2f}, quarantined {m.episodes.quarantined:.0f}, "
            f"waited {m.episodes.waited:.0f}, peak {peak_mib():,.0f} MiB",
            flush=True,
        )
    for leaf in jax.tree.leaves(state):
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            assert np.isfinite(np.asarray(leaf)).all()
    print("every float of the state is finite")


if __name__ == "__main__":
    main()
