"""Compare a policy as an ONNX model in onnxruntime with the same policy in NumPy: size, difference, time.

python tests/bench/exported.py

Times are medians of calls that alternate between the two in one process, with one thread each, since other
programs may be running.
The networks of 64 units are stored policies; the larger ones have random weights.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy reads it on import

import numpy as np
import onnxruntime

from td3_brax import Policy, load_policy
from td3_brax.commands.export.onnx_model import check, make_model
from td3_brax.policy import save_policy

STORED = Path(__file__).parent.parent / "policies"
ROUNDS = {1: 4000, 1024: 200}
"""Calls of each kind, by batch size."""


def with_layers(policy: Policy, hidden: tuple[int, ...]) -> Policy:
    """Return ``policy`` with random layers of these sizes."""
    rng = np.random.default_rng(0)
    pairs = list(pairwise([len(policy.obs_mean), *hidden, len(policy.action_low)]))
    weights = tuple((rng.normal(size=pair) / pair[0] ** 0.5).astype(np.float32) for pair in pairs)
    return dataclasses.replace(
        policy, weights=weights, biases=tuple(np.zeros(size, np.float32) for _, size in pairs)
    )


def medians(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median seconds of each call, made in alternation."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, own in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            own.append(time.perf_counter() - began)
    return [statistics.median(own[rounds // 10 :]) for own in seconds]


def row(policy: Policy) -> list[str]:
    """Measure one policy; return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        save_policy(policy, Path(folder) / "policy.npz")
        npz = (Path(folder) / "policy.npz").stat().st_size
    model = make_model(policy).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    sizes = "-".join(str(size) for size in (policy.weights[0].shape[0], *map(len, policy.biases)))
    cells = [f"{policy.env}, {sizes}", f"{npz / 1000:.0f} kB", f"{len(model) / 1000:.0f} kB"]
    cells.append(f"{check(policy, model):.0e}")
    for batch, rounds in ROUNDS.items():
        obs = np.random.default_rng(0).normal(size=(batch, len(policy.obs_mean))).astype(np.float32)
        calls = [lambda o=obs: policy.predict(o), lambda o=obs: session.run(["action"], {"obs": o})]
        ours, theirs = medians(calls, rounds)
        cells += [f"{ours * 1e6:,.0f} µs", f"{theirs * 1e6:,.0f} µs ({theirs / ours:.2f})"]
    return cells


def main() -> None:
    """Print the table."""
    ant = load_policy(STORED / "Ant-v5.npz")
    policies = [load_policy(STORED / "InvertedPendulum-v5.npz"), ant]
    policies += [with_layers(ant, hidden) for hidden in ((256, 256), (400, 300))]
    head = ["policy and layers", "`.npz`", "ONNX", "largest difference"]
    head += [f"{name}, batch {batch:,}" for batch in ROUNDS for name in ("NumPy", "onnxruntime (ratio)")]
    for cells in (head, ["---"] * len(head), *map(row, policies)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
