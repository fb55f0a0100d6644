"""Run what is worth most on a GPU and has not been measured, in order, until the budget is used.

    python tests/gpu/agenda.py --budget 800 --out DIR          # seconds
    python tests/gpu/agenda.py --list                          # what it would run, and what is kept already

Each part is one ``td3-brax`` command in a process of its own. While a part trains, the next one's program is
compiled into JAX's persistent cache. While a part's policies are scored in Gymnasium, the next one trains.
When the budget ends, the part under way stops after its chunk and keeps what it has reported.

``DIR/agenda.md`` and ``DIR/results.tar.gz`` are written again after each part: the table of parts, seconds
and results, and the options, metrics, scores and versions of every run, without checkpoints and policies.
A part whose results are kept in ``sweeps/results`` is skipped. Nothing is read from a network.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "sweeps" / "results"
NEEDED = (
    "jax",
    "flax",
    "optax",
    "brax",
    "mujoco",
    "gymnasium",
    "orbax",
    "rich",
    "yaml",
    "wandb",
    "matplotlib",
)
LAST_S = 25.0
"""Seconds before the end of the budget at which the part under way is told to stop."""
SHORTEST_S = 40.0
"""A part is not started with less than this left."""
SMALL = ("config.json", "metrics.jsonl", "about.json", "gymnasium.json", "reproduce.json", "members.jsonl")
MEMBERS = (1, 10, 32, 64)
TASKS = ("Ant", "HalfCheetah", "Walker2d", "Hopper", "Reacher", "InvertedPendulum", "InvertedDoublePendulum")
ABLATIONS = ("td3-dp", "td3-tps", "td3-cdq", "our-ddpg", "ddpg")


@dataclass(frozen=True)
class Part:
    """One command of the agenda.

    Attributes:
        argv: arguments of ``td3-brax``, without ``--out``; of Python where the first is a file.
        ahead: arguments that make a short run of the same program, to compile it ahead of time.
        runs: how many runs it leaves.
        kept: folder in ``sweeps/results`` that holds its results once they are kept.
    """

    name: str
    argv: Sequence[str]
    ahead: Sequence[str] = ()
    runs: int = 1
    kept: str = ""
    needs: str = ""
    """A package that it needs beside the usual ones."""


def reproduce(
    env: str, algo: str, seeds: int = 10, steps: int = 1_000_000, kept: bool = True, *more: str
) -> Part:
    """Return the part that trains ``seeds`` trials of one of the paper's experiments as members."""
    common = ["reproduce", "--envs", f"{env}-v4", "--algos", algo, "--seeds", str(seeds)]
    common += ["--checkpoint_every_min", "0", "--members", str(seeds), *more]
    return Part(
        f"{env}-v4 {algo}, {seeds} x {steps:,} steps",
        [*common, "--steps", str(steps)],
        [*common, "--steps", "5000"],
        seeds,
        f"paper/{env}-v4/{algo}" * kept,
    )


def train(name: str, *argv: str) -> Part:
    """Return the part that trains one run."""
    common = ["train", *argv, "--checkpoint_every_min", "0"]
    return Part(name, common, [*common, "--total_env_steps", "1000000"])


def agenda() -> list[Part]:
    """Return all parts, the most valuable first."""
    parts = [reproduce(env, "td3") for env in TASKS]
    parts += [reproduce(env, algo) for env in ("Ant", "HalfCheetah") for algo in ABLATIONS]
    parts += [reproduce("Ant", "td3", members, 20_000, kept=False) for members in MEMBERS]
    peers = str(ROOT / "tests" / "bench" / "peers.py")
    parts += [train(f"quick Ant seed {seed}", "--env", "ant", "--seed", str(seed)) for seed in range(5)]
    parts += [
        Part("rejax's TD3 on brax Ant", [peers, "rejax", "--seconds", "120"], runs=0, needs="rejax"),
        Part(
            "packed sweep of 32 members",
            ["sweep", str(ROOT / "sweeps" / "learning_rate.yaml"), "--members", "32", "--wandb", "disabled"],
            runs=32,
        ),
    ]
    parts += [
        train(f"quick {env} seed 0", "--env", env, "--seed", "0")
        for env in ("halfcheetah", "hopper", "walker2d", "humanoid")
    ]
    parts += [reproduce(env, algo) for env in ("Hopper", "Walker2d") for algo in ABLATIONS]
    return parts


def reports(run: Path) -> list[dict[str, Any]]:
    """Return what a run has reported so far; a line that is being written is left out."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def is_kept(part: Part) -> bool:
    """Return whether the repository holds the part's results, made on an accelerator and at full length."""
    found = 0
    for about in (KEPT / part.kept).glob("*/about.json") if part.kept else ():
        device = json.loads(about.read_text())[-1]["versions"]["device"]
        log = reports(about.parent)
        steps = int(part.argv[part.argv.index("--steps") + 1])
        found += "cores" not in device and bool(log) and log[-1]["env_steps"] >= steps
    return found >= part.runs > 0


@dataclass
class Going:
    """A part that has been started."""

    part: Part
    out: Path
    process: subprocess.Popen[str]
    began: float = field(default_factory=time.perf_counter)
    trained_s: float | None = None
    """Seconds until the last run had made its last step."""

    def runs(self) -> list[Path]:
        """Return the folders of its runs."""
        return sorted({path.parent for path in self.out.rglob("metrics.jsonl")})

    def trains(self) -> bool:
        """Return whether some run has not reported its last step yet."""
        if self.process.poll() is not None:
            return False
        runs = self.runs()
        if not self.part.runs or len(runs) < self.part.runs:
            return True
        return not all("eval/return_kept" in (reports(run) or [{}])[-1] for run in runs)

    def reporting(self) -> bool:
        """Return whether a run has reported anything: its program is compiled."""
        return any(reports(run) for run in self.runs())

    def result(self) -> str:
        """Return what it came to, in one line."""
        logs = [log for run in self.runs() if (log := reports(run))]
        scored = [log[-1].get("eval/return_mean") for log in logs]
        returns = [value for value in scored if value is not None]
        if not logs:
            lines = (self.out / "log.txt").read_text(errors="replace").strip().splitlines()
            return lines[-1][:200] if lines else "nothing"
        steps = min(log[-1]["env_steps"] for log in logs)
        updates = sum(log[-1]["time/updates_per_s"] or 0 for log in logs)
        mean = sum(returns) / len(returns) if returns else float("nan")
        compiled = max(log[-1].get("time/compile_s", 0) for log in logs)
        evaluated = max(sum(row.get("time/eval_s", 0) for row in log) for log in logs)
        return (
            f"{len(logs)} runs, {steps:,} steps, return {mean:,.1f}, {updates:,.0f} updates/s in all, "
            f"compiling {compiled:.1f} s, evaluating {evaluated:.1f} s"
        )


def start(part: Part, argv: Sequence[str], out: Path, memory: float) -> Going:
    """Start a command of ``part`` in the folder ``out``; ``memory`` is its share of the GPU's."""
    out.mkdir(parents=True)
    python = [sys.executable] if argv[0].endswith(".py") else [sys.executable, "-m", "td3_brax"]
    where = [] if argv[0].endswith(".py") else ["--out", "runs"]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": str(memory),
        "WANDB_MODE": "disabled",
    }
    with (out / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*python, *argv, *where], cwd=out, env=env, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    return Going(part, out, process)


def write(out: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write the table, and the archive of all that is small."""
    table = ["| part | seconds | of them training | result |", "|---|---|---|---|"]
    table += [f"| {' | '.join(row)} |" for row in rows]
    (out / "agenda.md").write_text("\n".join(table) + "\n")
    partial = out / "results.tar.gz.tmp"
    with tarfile.open(partial, "w:gz") as archive:
        archive.add(out / "agenda.md", "agenda.md")
        for path in sorted((out / "parts").rglob("*")):
            if path.name in SMALL or path.name == "log.txt":
                archive.add(path, str(path.relative_to(out)))
    partial.replace(out / "results.tar.gz")


def run(parts: Sequence[Part], budget: float, out: Path) -> list[list[str]]:
    """Run ``parts`` until ``budget`` seconds are used; returns the table's rows."""
    began, rows = time.perf_counter(), list[list[str]]()
    ending: list[tuple[Going, list[str]]] = []

    def left() -> float:
        return budget - (time.perf_counter() - began)

    def note(going: Going, row: list[str]) -> None:
        spent = time.perf_counter() - going.began
        trained = "" if going.trained_s is None else f"{going.trained_s:.0f}"
        row[:] = [going.part.name, f"{spent:.0f}", trained, going.result()]
        write(out, rows)
        print(" | ".join(row), flush=True)

    def finish(wait: bool = False) -> None:
        for going, row in list(ending):
            if wait and going.process.poll() is None:
                try:
                    going.process.wait(max(left(), 1))
                except subprocess.TimeoutExpired:
                    going.process.kill()
                    going.process.wait()
            if going.process.poll() is not None:
                note(going, row)
                ending.remove((going, row))

    todo = list(parts)
    while todo:
        part = todo.pop(0)
        row = [part.name, "", "", ""]
        rows.append(row)
        if is_kept(part):
            row[3] = "kept already"
        elif part.needs and importlib.util.find_spec(part.needs) is None:
            row[3] = f"not run: {part.needs} is not installed"
        elif left() < SHORTEST_S:
            row[3] = "not run"
        else:
            going = start(part, part.argv, out / "parts" / f"{len(rows):02d}", 0.55)
            following = next((p for p in todo if p.ahead and not is_kept(p)), None)
            ahead = following and start(following, following.ahead, out / "ahead" / f"{len(rows):02d}", 0.3)
            while going.trains():
                if left() < LAST_S:
                    going.process.send_signal(signal.SIGINT)
                    break
                finish()
                time.sleep(0.2)
            if left() >= LAST_S and part.runs:
                going.trained_s = time.perf_counter() - going.began
            if ahead:
                while left() > LAST_S and ahead.process.poll() is None and not ahead.reporting():
                    time.sleep(0.2)  # it has begun to compile what the next part needs
                ahead.process.kill()
            ending.append((going, row))
            continue
        write(out, rows)
        print(" | ".join(row), flush=True)
    finish(wait=True)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agenda; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--budget", type=float, default=600, help="seconds (default: 600)")
    parser.add_argument("--out", type=Path, help="a new folder")
    parser.add_argument("--list", action="store_true", help="say what there is to run, and run nothing")
    given = parser.parse_args(argv)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    print(f"missing packages: {', '.join(missing) or 'none'}", flush=True)
    if given.list or missing:
        for part in agenda():
            print(f"{'kept already' if is_kept(part) else 'to run':<14}{part.name}")
        return 2 if missing else 0
    if given.out is None or given.out.exists():
        parser.error("--out must name a new folder")
    given.out.mkdir(parents=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(given.out.resolve() / "cache"))
    run(agenda(), given.budget, given.out.resolve())
    print((given.out / "agenda.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
