"""Try settings of ``td3-brax train`` beside each other: one process per core, resumable, one table.

    python sweeps/search.py sweeps/searches/quick_cpu.yaml --out runs/search
    python sweeps/search.py sweeps/searches/quick_gpu.yaml --at_once 1          # on a GPU

The YAML file holds ``base`` (options of every run), where a run is stopped, ``until`` (``env_steps``, or
``minutes`` from the first step; its schedules stay those of ``total_env_steps``), ``seeds``, and
``candidates`` (name: options). Run it again to go on: runs that got there are kept, others start anew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

GOALS = (1000, 2000, 3000, 4000)


def reports(run: Path) -> list[dict[str, Any]]:
    """What a run has logged so far; a line being written is left out."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def finished(run: Path, until: dict[str, float]) -> bool:
    """Whether ``run`` got as far as it should, or to its own end."""
    logged = reports(run)
    if not logged:
        return False
    if logged[-1]["env_steps"] >= json.loads((run / "config.json").read_text())["total_env_steps"]:
        return True
    reached = {"env_steps": logged[-1]["env_steps"], "minutes": trained_s(logged)[-1] / 60}
    return all(reached[name] >= value for name, value in until.items())


def trained_s(logged: list[dict[str, Any]]) -> list[float]:
    """Seconds from the first step to each report; evaluations count, starting and compiling do not."""
    began = logged[0]["wall_s"] - logged[0]["env_steps"] / logged[0]["time/env_steps_per_s"]
    return [report["wall_s"] - began for report in logged]


def shown(seconds: float) -> str:
    """Seconds, with tenths where they matter."""
    return f"{seconds:,.1f}" if seconds < 20 else f"{seconds:,.0f}"


def train(run: Path, options: dict[str, Any], until: dict[str, float], cores: Sequence[int]) -> None:
    """One run on ``cores``, ended like Ctrl-C once it is ``finished``."""
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    config = run.with_name(f"{run.name}.json")
    config.write_text(json.dumps(options))
    command = [sys.executable, "-m", "td3_brax.train", f"--config={config}", f"--out={run}"]
    with run.with_name(f"{run.name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            while process.poll() is None and not finished(run, until):
                time.sleep(0.5)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait()
    if not finished(run, until):
        print(f"{run.name} ended with code {process.returncode}, see {log.name}", file=sys.stderr)


def row(runs: list[Path]) -> list[str]:
    """Over a candidate's seeds: median steps and seconds (without compiling) to goals, last evaluations."""
    logs, cells = [], []
    for logged in filter(None, map(reports, runs)):
        timed = [r | {"trained_s": t} for r, t in zip(logged, trained_s(logged), strict=True)]
        logs.append([r for r in timed if r.get("eval/return_mean") is not None])
    logs = [log for log in logs if log]
    if not logs:
        return ["not run"]
    for goal in GOALS:
        reached = []
        for log in logs:
            first = next((r for r in log if r["eval/return_mean"] >= goal), None)
            reached.append((first["env_steps"], first["trained_s"]) if first else (math.inf, math.inf))
        steps, seconds = (statistics.median(x) for x in zip(*reached, strict=True))
        cells.append("-" if seconds == math.inf else f"{steps / 1e6:.2f}M, {shown(seconds)} s")
    last = [statistics.mean(r["eval/return_mean"] for r in log[-4:]) for log in logs]
    length = [statistics.mean(r["eval/length_mean"] for r in log[-4:]) for log in logs]
    cells += [f"{statistics.median(x):,.0f}" for x in (last, length)]
    return [*cells, shown(statistics.median(log[-1]["trained_s"] for log in logs))]


def main() -> None:
    """Run what is left to run, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--at_once", type=int, help="runs beside each other (default: one on each core)")
    args = parser.parse_args()
    search = yaml.safe_load(args.file.read_text())
    until = search["until"]
    names = {name: options or {} for name, options in search["candidates"].items()}
    where = {
        name: [args.out / f"{'-'.join(re.findall('[A-Za-z0-9]+', name))}-s{seed}" for seed in search["seeds"]]
        for name in names
    }

    jobs: queue.SimpleQueue[tuple[Path, dict[str, Any]]] = queue.SimpleQueue()
    for i, seed in enumerate(search["seeds"]):
        for name, options in names.items():
            if not finished(where[name][i], until):
                jobs.put((where[name][i], search["base"] | options | {"seed": seed}))

    def work(cores: Sequence[int]) -> None:
        while True:
            try:
                run, options = jobs.get_nowait()
            except queue.Empty:
                return
            print(run.name, flush=True)
            train(run, options, until, cores)

    cores = sorted(os.sched_getaffinity(0))
    beside = min(args.at_once or len(cores), len(cores))
    threads = [threading.Thread(target=work, args=(cores[i::beside],)) for i in range(beside)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    head = [f"to {goal:,}" for goal in GOALS] + ["last four evaluations", "length", "s in all"]
    print("| candidate | " + " | ".join(head) + " |\n|---|" + "---|" * len(head))
    for name, runs in where.items():
        print(f"| {name} | " + " | ".join(row(runs)) + " |")


if __name__ == "__main__":
    main()
