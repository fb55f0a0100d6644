"""The files that a run leaves in its folder (metrics, policies, curve), and its W&B run."""

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
from td3_brax.runs.origin import Origin
from td3_brax.runs.outcome import Outcome
from td3_brax.runs.tensorboard import EventFiles
from td3_brax.runs.tracking import JsonLines, Report
from td3_brax.runs.versions import machine
from td3_brax.runs.wandb_run import WandbRun

POLICIES = ("policy_early.npz", "policy_best.npz", "policy_last.npz")
EARLY = 0.2
"""Share of the run after which the next evaluation saves ``policy_early.npz``, for later comparison."""


class Record:
    """The record of a run: each report, each evaluation and the end.

    Args:
        line: prints a line for people.
        wandb: the W&B run, if there is one.
        outcome: the progress so far of a run that is resumed.
        origin: what a new run starts with, if not with new networks.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        line: Callable[[str], None],
        wandb: WandbRun | None = None,
        outcome: Outcome | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.config, self.out, self.line, self.wandb = config, out, line, wandb
        self.outcome = outcome or Outcome()
        self.kept: Policy | None = None
        """The policy in ``policy_best.npz``."""
        self.log = JsonLines(out / "metrics.jsonl", line)
        self._write_about({"init_from": origin.about} if origin else {})
        self.events = EventFiles(out, line) if config.tensorboard else None
        self.tracked_s = 0.0
        """Seconds that training waited for W&B and for TensorBoard's files."""
        self.schedule = make_schedule(config)

    def _write_about(self, further: Mapping[str, Any]) -> None:
        """Add this process with its command, its machine and ``further`` to ``about.json``."""
        path = self.out / "about.json"
        try:
            before = json.loads(path.read_text()) if path.exists() else []
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            processes = [*before, {"command": command, "versions": machine(), **further}]
            write_atomically(path, (json.dumps(processes, indent=2) + "\n").encode())
        except (OSError, ValueError) as error:
            self.line(f"warning: {path} could not be updated ({error})")

    @property
    def complete(self) -> bool:
        """Return whether the run has trained all its chunks."""
        return self.outcome.chunk >= self.schedule.chunks

    @property
    def evaluation_due(self) -> bool:
        """Return whether an evaluation follows the latest chunk."""
        return self.outcome.chunk % self.schedule.chunks_per_eval == 0

    def resume(self, size: int, last: str) -> None:
        """Continue the log, which ended with ``last`` after ``size`` bytes, and load the best policy."""
        self.log.resume(size, last)
        if self.events:
            self.events.resume(last)
        if math.isfinite(self.outcome.best):
            with contextlib.suppress(PolicyError):
                self.kept = load_policy(self.out, "best")

    def advance(self, report: Report) -> None:
        """Count the chunk that ``report`` is about."""
        state = self.outcome
        before, state.env_steps, state.chunk = state.env_steps, report["env_steps"], state.chunk + 1
        broken, waited = report["env/quarantined"], report["env/waited"]
        if broken and not state.broken_steps:
            made = state.env_steps - before - waited
            self.line(
                f"warning: {self.out}: {broken:,} of {made:,} steps broke (physics, observation or reward "
                "not finite, or beyond 1e10); these steps are discarded and their environments reset"
            )
        state.broken_steps += broken
        state.waited_steps += waited

    def note_evaluation(self, scored: Report, policy: Callable[[Mapping[str, Any]], Policy]) -> Report:
        """Note an evaluation of the current policy, and save the policy as the last and, if better, the best.

        A policy is better if fewer of its episodes break or, if equally many do, its mean return is higher.
        """
        state, no_return = self.outcome, scored["eval/return_mean"] is None
        state.return_mean = math.nan if no_return else scored["eval/return_mean"]
        state.return_std = math.nan if no_return else scored["eval/return_std"]
        before, state.broken = state.broken, scored["eval/broken"]
        if state.broken and not before:
            self.line(
                f"warning: {self.out}: {state.broken} of {self.config.eval_episodes} greedy episodes broke"
                f"{', so there is no return' if no_return else '; the return is the mean of the others'}"
            )
        names = ["policy_last.npz"]
        if not no_return and state.improves():
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
                self.line(f"warning: {self.out / name} could not be written ({error.strerror})")
            except PolicyError as error:
                self.line(f"warning: a policy was not saved: {error}")
        return scored | {"eval/return_best": None if math.isinf(state.best) else state.best}

    def note_kept_score(self, report: Report) -> Report:
        """Note the return of the best policy in fresh episodes; return ``report``."""
        if report["eval/return_kept"] is not None:
            self.outcome.kept = report["eval/return_kept"]
            self.outcome.kept_std = report["eval/return_kept_std"]
        return report

    def problem(self) -> str:
        """Read back the policies of a run just evaluated; return what is wrong with it, or ``""``."""
        state = self.outcome
        if math.isnan(state.return_mean):
            return f"all {self.config.eval_episodes} greedy episodes broke, so {self.out} has no return"
        for name, env_steps in ((POLICIES[-1], state.env_steps), (POLICIES[1], state.best_env_steps)):
            try:
                saved = load_policy(self.out / name).meta["env_steps"]
            except PolicyError as error:
                return str(error)
            if saved != env_steps:
                return f"{self.out / name} is the policy after {saved:,} steps instead of {env_steps:,}"
        return ""

    def track(self, report: Report) -> None:
        """Send one report to W&B and write it for TensorBoard, if the run does that."""
        began = time.perf_counter()
        if self.wandb:
            self.wandb.log(self.outcome.chunk, report)
        if self.events:
            self.events.write(report)
        self.tracked_s += time.perf_counter() - began

    def draw(self) -> None:
        """Draw the learning curve."""
        from td3_brax.runs.curve import save_curve

        config, out = self.config, self.out
        try:
            title = f"TD3 on {config.env} ({config.preset}, seed {config.seed})"
            save_curve(out / "metrics.jsonl", out / "curve.png", config.env, title)
        except OSError as error:
            self.line(f"warning: {out / 'curve.png'} could not be written ({error.strerror})")

    def film(self) -> None:
        """Make a film of the last policy."""
        from td3_brax.runs.film import render_film

        made, output = render_film(self.out, "--which=last")
        self.line(f"{'film' if made else 'warning: no film'}: {output}")

    def close(self, code: int, preempted: bool, summary: Mapping[str, Any]) -> None:
        """Close the event files, make the film, and end the W&B run with the results, as far as wanted."""
        if self.events:
            self.events.close()
        if self.config.film and not preempted and (self.out / POLICIES[-1]).exists():
            self.film()
        if not self.wandb:
            return
        best, kept = (
            value if math.isfinite(value) else None for value in (self.outcome.best, self.outcome.kept)
        )
        files = [path for name in ("curve.png", "film.mp4", *POLICIES) if (path := self.out / name).exists()]
        times = {"wall_s": self.outcome.wall_s, "time/track_s": self.tracked_s}
        results = {"eval/return_best": best, "eval/return_kept": kept, **times, **summary}
        if message := self.wandb.close(code, preempted, results, files):
            self.line(message)
