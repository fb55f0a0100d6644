"""Finish an experiment: score its trials in Gymnasium, film the best one, and log their mean to W&B."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from td3_brax.commands.report.groups import group
from td3_brax.commands.report.page import FILM
from td3_brax.commands.report.runs import RunsError, find
from td3_brax.commands.report.stats import curves, interval, iqm
from td3_brax.commands.score import score_in_gymnasium
from td3_brax.config import Config
from td3_brax.policy import load_policy
from td3_brax.runs import files
from td3_brax.runs.device import cpu_cores
from td3_brax.runs.film import render_film
from td3_brax.runs.formatting import counted
from td3_brax.runs.wandb_run import Membership, WandbRun, project

EPISODES = 10
"""Episodes over which each trial's last policy is scored in the real environment."""


def print_line(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def ignore_unreadable(error: RunsError) -> None:
    """Ignore a run that can't be read; the page reports it."""


def score(run: Path, config: Config) -> None:
    """Score the run's last policy in the real environment, unless ``gymnasium.json`` exists already."""
    path = run / "gymnasium.json"
    if path.exists() or not (run / "policy_last.npz").exists():
        return
    policy, processes = load_policy(run, "last"), min(cpu_cores(), EPISODES)
    returns, lengths = score_in_gymnasium(policy, config.env, config, EPISODES, config.seed, processes)
    scored = {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "length_mean": float(lengths.mean()),
        "episodes": EPISODES,
    }
    files.write_atomically(path, (json.dumps(scored, indent=2) + "\n").encode())


def film(out: Path) -> None:
    """Film the best trial in ``out``, unless a trial has a film; print a note if it can't be drawn."""
    runs = find([str(out)], ignore_unreadable)
    best = max(runs, key=lambda run: max(r["eval/return_mean"] for r in run.evaluations))
    if not any((Path(run.name) / FILM).exists() for run in runs):
        made, message = render_film(Path(best.name), "--seconds=10")
        print_line(f"{'film' if made else 'note: no film'}: {message}")


def aggregate(out: Path, name: str, configs: Sequence[Config]) -> None:
    """Log the mean curves of the trials in ``out`` as one more W&B run with this ``name``.

    ``aggregate.json`` notes for how many trials that was done.
    """
    path = out / "aggregate.json"
    logged = json.loads(path.read_text()) if path.exists() else {}
    trials = len(configs)
    if logged.get("trials") == trials:
        return
    (trials_group,) = group(find([str(out)], ignore_unreadable))
    if (averaged := curves(trials_group)) is None:
        return
    membership = Membership(f"{name}, {counted(trials, 'trial')}", name, project())
    low, high = interval(averaged.returns)
    columns = {
        "env_steps": averaged.env_steps,
        "eval/return_mean": averaged.mean,
        "eval/return_half_std": averaged.half_std,
        "eval/return_iqm": iqm(averaged.returns),
        "eval/return_iqm_low": low,
        "eval/return_iqm_high": high,
    }
    run = WandbRun(configs[0], out, None, lambda: None, print_line, membership)
    for i in range(len(averaged.env_steps)):
        run.log(i, {name: column[i].item() for name, column in columns.items()})
    summary = {"eval/return_best": averaged.best[0], "trials": trials}
    if message := run.close(0, False, summary, []):
        print_line(message)
    files.write_atomically(path, (json.dumps({"trials": trials, "wandb_id": run.id}) + "\n").encode())
