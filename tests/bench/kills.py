"""Runs that are killed at random places, again and again, beside the same runs left alone: what differs.

Three small configurations; each is killed (SIGKILL, SIGTERM and SIGINT in turn) and started again by the same
command until it is complete.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/td3-brax/tests").expanduser()))

from td3_brax.runs import checkpoint

SHARED = ["--env=inverted_pendulum", "--backend=spring", "--num_envs=8", "--warmup_env_steps=192"]
SHARED += ["--time_limit=40", "--report_every=128", "--eval_every=2560", "--eval_episodes=4"]
SHARED += ["--hidden_sizes=[32,32]", "--batch_size=32", "--checkpoint_every_min=0.005"]
CONFIGS = {
    "quick": ["--updates_per_env_step=0.125", "--replay_capacity=2000"],
    "one device, squared errors, 3 steps": ["--devices=1", "--num_atoms=1", "--n_step=3"],
    "paper's order of updates": ["--preset=author", "--updates_per_env_step=0.25", "--update_during_warmup"],
}
KILLS = 8
CHUNKS = 600


def untimed(out: Path) -> list[str]:
    """The lines of a run's metrics, without what a clock says."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    reports = [json.loads(line) for line in lines]
    return [
        json.dumps({k: v for k, v in r.items() if not k.startswith("time/") and k != "wall_s"})
        for r in reports
    ]


def lines(out: Path) -> int:
    """Lines in a run's metrics so far."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    """Print a line per configuration."""
    rng = random.Random(0)
    folder = Path(tempfile.mkdtemp())
    for i, (name, options) in enumerate(CONFIGS.items()):
        command = [sys.executable, "-m", "td3_brax.train", *SHARED, *options]
        command += [f"--total_env_steps={128 * CHUNKS}", "--resume=auto"]
        whole, killed = folder / f"whole{i}", folder / f"killed{i}"
        subprocess.run([*command, f"--out={whole}"], check=True, stdout=subprocess.DEVNULL)
        codes = []
        for kill in range(KILLS):
            process = subprocess.Popen([*command, f"--out={killed}"], stdout=subprocess.DEVNULL, stderr=-1)
            before = lines(killed)
            while lines(killed) <= before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.8))
            process.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kill % 3])
            process.communicate()
            codes.append(process.returncode)
        subprocess.run([*command, f"--out={killed}"], check=True, stdout=subprocess.DEVNULL)
        ours, theirs = untimed(killed), untimed(whole)
        differing = sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
        a, b = (checkpoint.load(checkpoint.saved(out)[0])[0] for out in (killed, whole))
        bytes_differing = sum(
            int((x.reshape(-1).view("u1") != y.reshape(-1).view("u1")).sum())
            for x, y in zip(a.values(), b.values(), strict=True)
        )
        print(
            f"{name}: stopped {len(codes)} times (exit codes {codes}), {len(ours)} lines of which "
            f"{differing} differ, {sum(x.nbytes for x in a.values()):,} bytes of state of which "
            f"{bytes_differing} differ",
            flush=True,
        )


if __name__ == "__main__":
    main()
