"""What W&B costs: the same run without it, offline, and online to a stand-in for its server.

    python tests/bench/tracking.py [--total_env_steps=524288 ...]

In turn, twice over; seconds of the whole command and of its training (from the first report to the last).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from standin import StandIn

MODES = ("disabled", "offline", "online")
ROUNDS = 2


def main() -> None:
    """Print each, and what it takes beyond the run without W&B."""
    options = ["--total_env_steps=524288", *sys.argv[1:]]
    whole: dict[str, list[float]] = {mode: [] for mode in MODES}
    trained: dict[str, list[float]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder, StandIn() as server:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser("~/.cache/td3-brax/xla")
        here = server.environment(Path(folder)) | {"JAX_COMPILATION_CACHE_DIR": cache}
        for i in range(ROUNDS):
            for mode in MODES:
                out = Path(folder) / f"{mode}-{i}"
                argv = [
                    sys.executable,
                    "-m",
                    "td3_brax",
                    "train",
                    *options,
                    f"--wandb={mode}",
                    f"--out={out}",
                ]
                began = time.perf_counter()
                subprocess.run(argv, env=os.environ | here, stdout=subprocess.DEVNULL, check=True)
                whole[mode].append(time.perf_counter() - began)
                lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
                trained[mode].append(lines[-1]["wall_s"] - lines[0]["wall_s"])
        arrived = [len(history) for history in server.history.values()]
    for mode in MODES:
        all_s, train_s = (statistics.mean(times[mode]) for times in (whole, trained))
        least = statistics.mean(trained["disabled"])
        print(f"{mode:>9}: {all_s:.1f} s, training {train_s:.2f} s ({train_s / least - 1:+.1%})")
    waited = ", ".join(f"{summary['time/track_s']:.2f} s" for summary in server.summary.values())
    print(
        f"reports of each run: {len(lines)}; lines that arrived: {arrived}; online, training waited {waited}"
    )


if __name__ == "__main__":
    main()
