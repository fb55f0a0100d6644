"""What one run leaves behind: lines, policies and a curve in its folder, and its W&B run."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from td3_brax.algorithm.schedule import make_schedule
from td3_brax.config import Config
from td3_brax.policy import Policy, PolicyError, load_policy, save_policy
from td3_brax.runs.files import write_atomically
from td3_brax.runs.outcome import Outcome
from td3_brax.runs.tracking import JsonLines, Report
from td3_brax.runs.versions import machine
from td3_brax.runs.wandb_run import WandbRun

POLICIES = ("policy_early.npz", "policy_best.npz", "policy_last.npz")
EARLY = 0.2
"""Share of the run after which the first evaluation keeps its policy, to look back at."""


class Record:
    """One run as it goes: each report, each evaluation, its end.

    Args:
        line: takes a line for people.
        wandb: its W&B run, if it has one.
        outcome: how it stood, where it goes on.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        line: Callable[[str], None],
        wandb: WandbRun | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        self.config, self.out, self.line, self.wandb = config, out, line, wandb
        self.outcome = outcome or Outcome()
        self.kept: Policy | None = None
        """The policy of ``policy_best.npz``."""
        self.log = JsonLines(out / "metrics.jsonl", line)
        self._note()
        self.tracked_s = 0.0
        """For how long training waited for W&B."""
        self.schedule = make_schedule(config)

    def _note(self) -> None:
        """Add this process, its command and machine, to ``about.json``."""
        path = self.out / "about.json"
        try:
            before = json.loads(path.read_text()) if path.exists() else []
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            noted = [*before, {"command": command, "versions": machine()}]
            write_atomically(path, (json.dumps(noted, indent=2) + "\n").encode())
        except (OSError, ValueError) as error:
            self.line(f"warning: {path}: {error}; not saved")

    @property
    def complete(self) -> bool:
        """Whether it has all its chunks."""
        return self.outcome.chunk >= self.schedule.chunks

    @property
    def due(self) -> bool:
        """Whether its latest chunk is followed by an evaluation."""
        return self.outcome.chunk % self.schedule.chunks_per_eval == 0

    def go_on(self, size: int, last: str) -> None:
        """Take up the log where it ended with ``last`` after ``size`` bytes, and the best policy."""
        self.log.resume(size, last)
        if math.isfinite(self.outcome.best):
            with contextlib.suppress(PolicyError):
                self.kept = load_policy(self.out, "best")

    def advance(self, report: Report) -> None:
        """Count the chunk that reported this."""
        state = self.outcome
        before, state.env_steps, state.chunk = state.env_steps, report["env_steps"], state.chunk + 1
        broken, waited = report["env/quarantined"], report["env/waited"]
        if broken and not state.broken_steps:
            made = state.env_steps - before - waited
            self.line(
                f"warning: {self.out}: {broken:,} of {made:,} steps broke (physics, an observation or a "
                "reward that is not finite, or beyond 1e10); they are left out, their environments begin anew"
            )
        state.broken_steps += broken
        state.waited_steps += waited

    def evaluated(self, scored: Report, policy: Callable[[Mapping[str, Any]], Policy]) -> Report:
        """Note an evaluation of the present policy; save it as the last one, and as the best if it is.

        Better is, of which fewer episodes break; then, whose others return more.
        """
        state, none = self.outcome, scored["eval/return_mean"] is None
        state.return_mean = math.nan if none else scored["eval/return_mean"]
        state.return_std = math.nan if none else scored["eval/return_std"]
        before, state.broken = state.broken, scored["eval/broken"]
        if state.broken and not before:
            self.line(
                f"warning: {self.out}: {state.broken} of {self.config.eval_episodes} greedy episodes broke; "
                f"{'no return is left' if none else 'the return is that of the others'}"
            )
        names = ["policy_last.npz"]
        if not none and state.improves():
            state.keep(state.env_steps)
            names.append("policy_best.npz")
        if state.env_steps >= EARLY * self.schedule.total_env_steps and not (self.out / POLICIES[0]).exists():
            names.append(POLICIES[0])
        made = policy({"env_steps": state.env_steps, "return_mean": scored["eval/return_mean"]})
        if POLICIES[1] in names:
            self.kept = made
        for name in names:
            try:
                save_policy(made, self.out / name)
            except OSError as error:
                self.line(f"warning: {self.out / name}: {error.strerror}; not saved")
            except PolicyError as error:
                self.line(f"warning: {error}; not saved")
        return scored | {"eval/return_best": None if math.isinf(state.best) else state.best}

    def note_kept_score(self, report: Report) -> Report:
        """Note what the best policy returns in fresh episodes; returns ``report``."""
        if report["eval/return_kept"] is not None:
            self.outcome.kept = report["eval/return_kept"]
            self.outcome.kept_std = report["eval/return_kept_std"]
        return report

    def problem(self) -> str:
        """What of a run that has just been evaluated is not as it should be, read back; or nothing."""
        state = self.outcome
        if math.isnan(state.return_mean):
            return f"all {self.config.eval_episodes} greedy episodes broke: {self.out} has no return"
        for name, env_steps in ((POLICIES[-1], state.env_steps), (POLICIES[1], state.best_env_steps)):
            try:
                held = load_policy(self.out / name).meta["env_steps"]
            except PolicyError as error:
                return str(error)
            if held != env_steps:
                return f"{self.out / name} is of {held:,} steps, not of {env_steps:,}"
        return ""

    def track(self, report: Report) -> None:
        """Send one report to W&B, if there is a run there."""
        if self.wandb:
            began = time.perf_counter()
            self.wandb.log(self.outcome.chunk, report)
            self.tracked_s += time.perf_counter() - began

    def draw(self) -> None:
        """The learning curve."""
        from td3_brax.runs.curve import save_curve

        config, out = self.config, self.out
        try:
            title = f"TD3 on {config.env} ({config.preset}, seed {config.seed})"
            save_curve(out / "metrics.jsonl", out / "curve.png", config.env, title)
        except OSError as error:
            self.line(f"warning: {out / 'curve.png'}: {error.strerror}; not saved")

    def film(self) -> None:
        """A film of the policy."""
        from td3_brax.runs.film import render_film

        made, said = render_film(self.out, "--which=last")
        self.line(f"{'film' if made else 'warning: no film'}: {said}")

    def close(self, code: int, preempted: bool, summary: Mapping[str, Any]) -> None:
        """The film, if one is asked for; then end the W&B run, if there is one, with what the run came to."""
        if self.config.film and not preempted and (self.out / POLICIES[-1]).exists():
            self.film()
        if not self.wandb:
            return
        best, kept = (
            value if math.isfinite(value) else None for value in (self.outcome.best, self.outcome.kept)
        )
        files = [path for name in ("curve.png", "film.mp4", *POLICIES) if (path := self.out / name).exists()]
        times = {"wall_s": self.outcome.wall_s, "time/track_s": self.tracked_s}
        whole = {"eval/return_best": best, "eval/return_kept": kept, **times, **summary}
        if left := self.wandb.close(code, preempted, whole, files):
            self.line(left)
