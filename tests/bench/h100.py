"""What the Ant training program is on an H100, without one: ``python tests/bench/h100.py``.

Compiles one chunk of the ``quick`` preset for a GPU and prints what it starts on the device, what it needs
of the host and what memory it takes. Options are those of ``td3-brax train``, as ``--num_envs=4096``, and
``--members=16``: of one program.
"""

from __future__ import annotations

import os
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from td3_brax import aot, loop
from td3_brax.cli import parse_options, train_parser, whole
from td3_brax.envs.brax import BraxTask
from td3_brax.plan import tree_bytes
from td3_brax.presets import resolve

parser = train_parser()
parser.add_argument("--members", type=whole, default=1)
explicit, others = parse_options(parser, sys.argv[1:])
config, members = resolve(explicit, "gpu"), others["members"]
began = time.perf_counter()
program = loop.build(config, BraxTask(config.env, config.backend))
state = jax.eval_shape(lambda: loop.start(program, [config] * members))
built = time.perf_counter()
options = {"xla_gpu_deterministic_ops": True} if config.deterministic else {}
compiled = aot.compile_for(program.train_chunk, (state,), donate_argnums=0, options=options)
done = time.perf_counter()
counts = aot.count(compiled)

schedule, scopes = program.schedule, counts.by_scope
replay_bytes = tree_bytes(state.replay.rows)
rows = {
    "members": members,
    "environments of each": config.num_envs,
    "chunk: vector steps, updates, refills": (
        f"{schedule.vector_steps:,}, {schedule.total_updates:,}, {schedule.groups:,}"
    ),
    "device operations per chunk": counts.operations,
    "  per vector step (act, step, insert)": scopes["collect"] / schedule.vector_steps,
    f"  per update of batch {config.batch_size:,}": scopes["learn"] / schedule.total_updates,
    "  per refill of fresh states": scopes["refill"] / schedule.groups,
    "  per vector step, outside these": scopes.get("other", 0) / schedule.vector_steps,
    "host operations": len(counts.host),
    "loops of unknown trip count": len(counts.unknown_loops),
    "conditionals": len(counts.conditionals),
    "state, MB": tree_bytes(state) / 1e6,
    "  of it updated in place, MB": counts.alias_bytes / 1e6,
    "  of it not updated in place, bytes": tree_bytes(state) - counts.alias_bytes,
    "  of it the replay, MB": replay_bytes / 1e6,
    "operations that write as much as the replay": len(counts.large(replay_bytes)),
    "largest single write, MB": max(operation.bytes for operation in counts.details) / 1e6,
    "workspace, MB": counts.temp_bytes / 1e6,
    "seconds to build the task": built - began,
    "seconds to compile": done - built,
}
print(f"{config.env} ({config.backend}), preset {config.preset}, for an H100 with jax {jax.__version__}\n")
for name, value in rows.items():
    shown = value if isinstance(value, str) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
    print(f"{name:<46}{shown:>16}")
print("\noperations per chunk by kind:", ", ".join(f"{k} {n:,}" for k, n in sorted(counts.by_kind.items())))
print("library calls per chunk:", ", ".join(f"{k} {n:,}" for k, n in counts.custom_calls.items()) or "none")
