"""Try settings of ``td3-brax train`` beside each other: one process per core, resumable, one table.

    python sweeps/search.py sweeps/searches/quick_cpu.yaml --out runs/search

The YAML file holds ``base`` (options of every run), where a run is stopped, ``until`` (``env_steps``, or
``minutes`` without those of compiling; its schedules stay those of ``total_env_steps``), ``seeds``, and
``candidates`` (name: options). Run it again to go on: runs that got there are kept, others start anew.
"""

from __future__ import annotations

import argparse
import json
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
    reached = {"env_steps": logged[-1]["env_steps"], "minutes": trained_s(logged[-1]) / 60}
    return all(reached[name] >= value for name, value in until.items())


def trained_s(report: dict[str, Any]) -> float:
    """Seconds from the first step."""
    return report["wall_s"] - report["time/compile_s"]


def train(run: Path, options: dict[str, Any], until: dict[str, float], core: int) -> None:
    """One run on one core, ended like Ctrl-C once it is ``finished``."""
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
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        try:
            while process.poll() is None and not finished(run, until):
                time.sleep(2)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait()
    if not finished(run, until):
        print(f"{run.name} ended with code {process.returncode}, see {log.name}", file=sys.stderr)


def row(runs: list[Path]) -> list[str]:
    """Over a candidate's seeds: median steps and seconds (without compiling) to goals, last evaluations."""
    cells = []
    logs = [[r for r in reports(run) if r.get("eval/return_mean") is not None] for run in runs]
    logs = [log for log in logs if log]
    if not logs:
        return ["not run"]
    for goal in GOALS:
        reached = []
        for log in logs:
            first = next((r for r in log if r["eval/return_mean"] >= goal), None)
            reached.append((first["env_steps"], trained_s(first)) if first else (float("inf"), float("inf")))
        steps, seconds = (statistics.median(x) for x in zip(*reached, strict=True))
        cells.append("-" if seconds == float("inf") else f"{steps / 1e6:.2f}M, {seconds:,.0f} s")
    last = [statistics.mean(r["eval/return_mean"] for r in log[-4:]) for log in logs]
    length = [statistics.mean(r["eval/length_mean"] for r in log[-4:]) for log in logs]
    spent = [trained_s(log[-1]) for log in logs]
    cells += [f"{statistics.median(x):,.0f}" for x in (last, length, spent)]
    return cells


def main() -> None:
    """Run what is left to run, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
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

    def work(core: int) -> None:
        while True:
            try:
                run, options = jobs.get_nowait()
            except queue.Empty:
                return
            print(f"core {core}: {run.name}", flush=True)
            train(run, options, until, core)

    threads = [threading.Thread(target=work, args=(core,)) for core in sorted(os.sched_getaffinity(0))]
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
