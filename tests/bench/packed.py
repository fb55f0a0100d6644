"""Sixteen members of a sweep in one program, and the same sixteen one after another.

    python tests/bench/packed.py [--total_env_steps=131072 ...]

Options are those of ``td3-brax train``, for all of them; wall time and the peak of resident memory, with
whatever the compilation cache holds for both (run it twice for a warm one). Then the greedy returns of both,
which should be alike: the members' own numbers differ by rounding, and what follows from that.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

SEEDS = 16
DEFAULTS = ["--total_env_steps=131072", "--eval_every=131072", "--replay_capacity=200000"]


def peak_mb(pid: int) -> float:
    """Resident memory that a process has had at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def run(*argv: str) -> tuple[float, float]:
    """Seconds and peak MB of a command."""
    began, peak = time.perf_counter(), 0.0
    with subprocess.Popen([sys.executable, "-m", "td3_brax", *argv], stdout=subprocess.DEVNULL) as process:
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.5):
                try:
                    peak = max(peak, peak_mb(process.pid))
                except OSError:
                    return

        watching = threading.Thread(target=watch)
        watching.start()
        code = process.wait()
        ended.set()
        watching.join()
    if code:
        raise SystemExit(f"{argv} ended with {code}")
    return time.perf_counter() - began, peak


def returns(runs: list[Path]) -> str:
    """Mean and deviation, over runs, of the last greedy return."""
    lines = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in runs]
    last = [line["eval/return_mean"] for line in lines]
    return f"{statistics.mean(last):,.1f} +- {statistics.stdev(last):,.1f}"


def main() -> None:
    """Print both, and their ratio."""
    options = dict(option.removeprefix("--").split("=", 1) for option in [*DEFAULTS, *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seeds.yaml"
        fixed = {name: {"value": yaml.safe_load(value)} for name, value in options.items()}
        parameters = fixed | {"seed": {"values": list(range(SEEDS))}}
        file.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
        out = Path(folder) / "packed"
        packed, packed_mb = run("sweep", str(file), "--wandb=disabled", f"--members={SEEDS}", f"--out={out}")
        print(f"{SEEDS} members in one program: {packed:.0f} s, peak {packed_mb:,.0f} MB", flush=True)
        flags = [f"--{name}={value}" for name, value in options.items()]
        alone, alone_mb = 0.0, 0.0
        for seed in range(SEEDS):
            seconds, peak = run("train", *flags, f"--seed={seed}", f"--out={Path(folder) / str(seed)}")
            alone, alone_mb = alone + seconds, max(alone_mb, peak)
        print(f"one after another: {alone:.0f} s, peak {alone_mb:,.0f} MB; ratio {alone / packed:.2f}")
        together = [out / f"{seed + 1:03d}" for seed in range(SEEDS)]
        apart = [Path(folder) / str(seed) for seed in range(SEEDS)]
        print(f"greedy returns at the end: {returns(together)} together, {returns(apart)} apart")


if __name__ == "__main__":
    main()
