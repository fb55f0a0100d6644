"""What follows when trials have ended: their scores in Gymnasium, a film, and a W&B run of them together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from td3_brax.commands.report.groups import group
from td3_brax.commands.report.page import FILM
from td3_brax.commands.report.runs import RunsError, find
from td3_brax.commands.report.stats import curves, interval, iqm
from td3_brax.commands.score import in_gymnasium
from td3_brax.config import Config
from td3_brax.policy import load_policy
from td3_brax.runs import files
from td3_brax.runs.device import cpu_cores
from td3_brax.runs.film import render_film
from td3_brax.runs.formatting import counted
from td3_brax.runs.wandb_run import Membership, WandbRun, project

EPISODES = 10
"""Of each trial's last policy in the real environment."""


def line(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def left_to_the_page(error: RunsError) -> None:
    """The page says which runs can't be read."""


def score(run: Path, config: Config) -> None:
    """Play the run's last policy in the real environment, once; the result is in ``gymnasium.json``."""
    path = run / "gymnasium.json"
    if path.exists() or not (run / "policy_last.npz").exists():
        return
    policy, processes = load_policy(run, "last"), min(cpu_cores(), EPISODES)
    returns, lengths = in_gymnasium(policy, config.env, config, EPISODES, config.seed, processes)
    scored = {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "length_mean": float(lengths.mean()),
        "episodes": EPISODES,
    }
    files.write_atomically(path, (json.dumps(scored, indent=2) + "\n").encode())


def film(out: Path) -> None:
    """One of the best trial in ``out``, where drawing is possible."""
    runs = find([str(out)], left_to_the_page)
    best = max(runs, key=lambda run: max(r["eval/return_mean"] for r in run.evaluations))
    if not any((Path(run.name) / FILM).exists() for run in runs):
        made, said = render_film(Path(best.name), "--seconds=10")
        line(f"{'film' if made else 'note: no film'}: {said}")


def aggregate(out: Path, name: str, configs: Sequence[Config]) -> None:
    """One more W&B run, ``name``, of the trials in ``out`` together."""
    path = out / "aggregate.json"
    noted = json.loads(path.read_text()) if path.exists() else {}
    trials = len(configs)
    if noted.get("trials") == trials:
        return
    (own,) = group(find([str(out)], left_to_the_page))
    if (made := curves(own)) is None:
        return
    membership = Membership(f"{name}, {counted(trials, 'trial')}", name, project())
    low, high = interval(made.returns)
    columns = {
        "env_steps": made.env_steps,
        "eval/return_mean": made.mean,
        "eval/return_half_std": made.half_std,
        "eval/return_iqm": iqm(made.returns),
        "eval/return_iqm_low": low,
        "eval/return_iqm_high": high,
    }
    run = WandbRun(configs[0], out, None, lambda: None, line, membership)
    for i in range(len(made.env_steps)):
        run.log(i, {name: column[i].item() for name, column in columns.items()})
    summary = {"eval/return_best": made.best[0], "trials": trials}
    if left := run.close(0, False, summary, []):
        line(left)
    files.write_atomically(path, (json.dumps({"trials": trials, "wandb_id": run.id}) + "\n").encode())
