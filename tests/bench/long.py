"""Ten million environment steps with small networks: does memory stay, does the rate, how large is the log?

    python tests/bench/long.py [--num_envs=512 ...]

Options are those of ``td3-brax train``. A line for each tenth of the run: the median rate of its reports, the
process's resident memory at its end, and the size of ``metrics.jsonl``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 10_000_000
PARTS = 10
DEFAULTS = [
    "--env=inverted_pendulum",
    "--hidden_sizes=[32,32]",
    f"--total_env_steps={STEPS}",
    "--eval_every=1000000",
    "--checkpoint_every_min=1",
]


def resident_mb(pid: int) -> float:
    """Memory that a process has now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Run it, and print a line for each part and the spread over them."""
    with tempfile.TemporaryDirectory() as folder:
        log, run = Path(folder) / "run" / "metrics.jsonl", Path(folder) / "run"
        command = [sys.executable, "-m", "td3_brax.train", *DEFAULTS, *sys.argv[1:], f"--out={run}"]
        rates: list[float] = []
        memory: list[float] = []
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                time.sleep(0.5)
                lines = log.read_text().splitlines(keepends=True) if log.exists() else []
                reports = [json.loads(line) for line in lines if line.endswith("\n")]
                end = (len(rates) + 1) * STEPS / PARTS
                part = [r for r in reports if end - STEPS / PARTS < r["env_steps"] <= end]
                if reports and reports[-1]["env_steps"] >= end and process.poll() is None:
                    rates.append(statistics.median(r["time/env_steps_per_s"] for r in part))
                    memory.append(resident_mb(process.pid))
                    size = log.stat().st_size / 1e3
                    print(
                        f"{reports[-1]['env_steps']:>10,} steps {rates[-1]:>9,.0f} steps/s "
                        f"{memory[-1]:>7,.0f} MB, log {size:,.0f} kB, {len(reports)} reports",
                        flush=True,
                    )
        if process.returncode or len(rates) < PARTS - 1:
            raise SystemExit(f"{command} ended with {process.returncode} after {len(rates)} parts")
        for name, values in (("rate", rates), ("memory", memory)):
            middle = statistics.median(values)
            print(f"{name}: {min(values) / middle - 1:+.1%} to {max(values) / middle - 1:+.1%} of its median")


if __name__ == "__main__":
    main()
