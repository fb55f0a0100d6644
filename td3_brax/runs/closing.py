"""The summary that a run prints at its end."""

from __future__ import annotations

import math
from pathlib import Path

from td3_brax.config import Config
from td3_brax.runs.formatting import command, counted, number, spread
from td3_brax.runs.outcome import Outcome
from td3_brax.runs.signals import DIVERGED, INTERRUPTED, PREEMPTED
from td3_brax.runs.tracking import duration


def closing_lines(
    config: Config, out: Path, outcome: Outcome, code: int, problem: str, compile_s: float
) -> list[str]:
    """Return the lines that say what a run reached, how long it took, what failed and what to do next.

    Args:
        code: the exit code so far.
        problem: what is wrong with the run's files or scores; empty if nothing is.
        compile_s: seconds spent on compiling.
    """
    resume = command("train", "--resume", out)
    if code == PREEMPTED:
        return [f"saved at {outcome.env_steps:,} steps in {out}; resume with: {resume}"]
    lines = []
    if outcome.broken_steps:
        made = outcome.env_steps - outcome.waited_steps
        lines.append(
            f"warning: {outcome.broken_steps:,} of {made:,} steps broke during training and were discarded"
        )
    if math.isnan(outcome.return_mean):
        return [*lines, f"failed: {problem}" if problem else f"ended without a greedy return; see {out}"]
    word = {0: "ended" if problem else "done", DIVERGED: "diverged"}.get(code, "stopped early")
    best = f"best {number(outcome.best)} at {outcome.best_env_steps:,}"
    if math.isfinite(outcome.kept):
        best += f"; the best policy returns {spread(outcome.kept, outcome.kept_std)} in fresh episodes"
    lines.append(
        f"{word}: greedy return {spread(outcome.return_mean, outcome.return_std)} over "
        f"{counted(config.eval_episodes - outcome.broken, 'episode')} after {outcome.env_steps:,} steps "
        f"({best}) in {duration(outcome.wall_s)}, including {duration(compile_s)} of compiling."
    )
    if problem:
        return [*lines, f"failed: {problem}"]
    resumable = code == INTERRUPTED and config.checkpoint_every_min
    next_command = resume if resumable else command("eval", out)
    files = "policy_best.npz, policy_last.npz, curve.png, metrics.jsonl"
    return [*lines, f"saved in {out}: {files}. Next: {next_command}"]
