"""Train one run on the host: build the program, run chunks, evaluate, log and save."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from td3_brax.algorithm.schedule import make_schedule
from td3_brax.config import Config
from td3_brax.option import ConfigError
from td3_brax.runs import hosts, resuming
from td3_brax.runs.closing import closing_lines
from td3_brax.runs.formatting import command, counted
from td3_brax.runs.origin import Origin
from td3_brax.runs.record import POLICIES, Record
from td3_brax.runs.resuming import Start
from td3_brax.runs.signals import DIVERGED, FAILED, PREEMPTED, TERMINATED, Signals
from td3_brax.runs.tracking import Display, Report, one_line
from td3_brax.runs.versions import versions
from td3_brax.runs.wandb_run import WandbRun

Callback = Callable[[Report], object]
"""Called with each report (a line of ``metrics.jsonl``); returning True stops the run as Ctrl-C does."""


class Run:
    """A run in its folder, started anew or resumed from a checkpoint."""

    def __init__(
        self,
        config: Config,
        out: Path,
        start: Start | None,
        began: float,
        callback: Callback | None = None,
        origin: Origin | None = None,
    ) -> None:
        """``began`` is the time when the command started (``time.perf_counter``)."""
        from td3_brax.runs.checkpoint import Checkpoints

        self.config, self.out, self.schedule = config, out, make_schedule(config)
        self._callback = callback
        self.display = Display(self.schedule.total_env_steps, quiet=not hosts.is_first())
        self.checkpoints = Checkpoints(out, config.checkpoint_keep, start.path if start else None)
        self._began = self._saved = self._command = began
        self._start, self._origin = start, origin
        self._blocked_s = 0.0
        self._save_reported = False
        self._can_save = False
        """Whether there is unsaved progress and the state is the one after a whole chunk."""
        self._error: BaseException | None = None
        """The error that the callback raised."""
        self._trained_s = self._evaluated_s = 0.0
        if start:
            self._began -= start.outcome.wall_s

    def train(self, signals: Signals) -> int:
        """Train all remaining chunks; return the exit code.

        An error of the callback stops and saves the run as Ctrl-C does, and is raised at the end.
        """
        display, schedule, start = self.display, self.schedule, self._start
        common = dataclasses.replace(
            self.config, out="", init_from="", wandb="disabled", tensorboard=False, film=False
        )
        begun = start.outcome.chunk if start else self._origin and self._origin.env_steps
        hosts.check_same_on_all((common, versions(), begun))
        if start and start.outcome.chunk >= schedule.chunks:
            display.line(f"{self.out} is complete: {start.outcome.env_steps:,} steps; nothing to do")
            return 0
        wandb = None
        if self.config.wandb != "disabled":
            before = start.wandb_id if start else None
            wandb = WandbRun(self.config, self.out, before, signals.stop, display.line)
        import jax

        from td3_brax.algorithm import shards
        from td3_brax.runs.program import Program

        imported = time.perf_counter()
        layout, outcome = shards.split(self.config.devices), start.outcome if start else None
        self.program = Program([self.config], display.line, layout, [self._origin])
        self.record = Record(self.config, self.out, display.line, wandb, outcome, self._origin)
        if start:
            self._resume(start)
            self._start = start = None
        else:
            self.program.begin()
        if self._origin:
            display.line(self._origin.line)
        state = self.record.outcome
        asked, chunk = self.config.total_env_steps, schedule.env_steps
        rounded = f" ({asked:,}, rounded up to a multiple of {chunk:,})" * (asked != schedule.total_env_steps)
        updates = f"{counted(schedule.updates, 'update')} with batches of {self.config.batch_size}"
        display.line(
            f"{self.config.env}: {counted(schedule.total_env_steps, 'step')}{rounded} in "
            f"{counted(self.config.num_envs, 'environment')}, {updates} after every "
            f"{counted(schedule.steps, 'vector step')}; greedy evaluation every "
            f"{schedule.chunks_per_eval * chunk:,} steps; writing to {self.out}"
        )
        self._saved = time.perf_counter()
        self.phases = self._phases(imported, self._saved)
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.phases.items())
        display.line(f"training begins after {self._saved - self._command:.1f} s: {parts}")
        if hosts.count() > 1:
            display.line(
                f"{hosts.count()} hosts train together; if one is lost, all exit (code 75, or JAX's 134). To "
                f"resume from the last checkpoint, run on all hosts: {command('train', '--resume', self.out)}"
            )
        signals.training = True
        display.begin(state.env_steps, state.best)
        code = 0
        try:
            while not (code or self.record.complete):
                code = self._chunk(signals)
        except BaseException as error:
            self._rescue()
            if hosts.count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
                raise
            resume = command("train", "--resume", self.out if hosts.is_first() else "RUN")
            raise hosts.HostLostError(
                f"a host was lost, or this one failed ({one_line(error)}); the last checkpoint is intact. To "
                f"resume from it, run on all hosts: {resume}"
            ) from None
        finally:
            display.close()
        self.checkpoints.wait()
        self._warn_of_failed_save()
        if code == 0:
            self.checkpoints.prune(1)
        self.record.log.close()
        problem = "" if code in (PREEMPTED, DIVERGED) else self.record.problem()
        self._close(code, problem)
        code = code or FAILED * bool(problem)
        times = self.phases | {"compile": self.program.compile_s}
        times |= {"train": self._trained_s, "eval": self._evaluated_s}
        summary: Report = {f"time/{part}_s": seconds for part, seconds in times.items()}
        summary |= {"compile_cache_hit": self.program.cached, "device": versions()["device"]}
        self.record.close(1 if self._error else code, code == PREEMPTED, summary)
        if self._error:
            raise self._error
        return code

    def _rescue(self) -> None:
        """After an error, save the progress if the last chunk was completed."""
        if self._can_save and self.config.checkpoint_every_min and hosts.count() == 1:
            with contextlib.suppress(Exception):  # report the first error, not this one
                self._save()
        self.checkpoints.wait()
        self.record.log.close()
        if self.record.wandb:
            self.record.wandb.close(1, False, {}, [])

    def _phases(self, imported: float, ready: float) -> dict[str, float]:
        """Return the seconds that each part of the start took, counted from the command."""
        program = self.program
        phases = {
            "import": imported - self._command,
            "model": program.model_s,
            "trace": program.trace_s,
            "compile": program.compile_s - program.trace_s,
        }
        return phases | {"state": ready - self._command - sum(phases.values())}

    def _resume(self, start: Start) -> None:
        """Restore files and state from a checkpoint."""
        from td3_brax.runs.checkpoint import CheckpointError

        resuming.restore_files(self.out, self.config, start.files)
        self.record.resume(*start.tail)
        try:
            self.program.restore(start.arrays)
        except CheckpointError as error:
            raise ConfigError("resume", str(self.out), f"its checkpoint does not fit: {error}") from None
        line = self.display.line
        line(f"resuming at {start.outcome.env_steps:,} of {self.schedule.total_env_steps:,} steps")
        for name, version in versions().items():
            if start.versions.get(name) != version:
                line(
                    f"note: begun with {name} {start.versions.get(name)}, continued with {version}: the run "
                    "will not match an uninterrupted one bit for bit"
                )

    def _chunk(self, signals: Signals) -> int:
        """Train one chunk, then evaluate, log and save what is due; return an exit code, 0 to continue."""
        record, state, config = self.record, self.record.outcome, self.config
        began, self._can_save = time.perf_counter(), False
        (report,) = self.program.run_chunk()
        self._trained_s += time.perf_counter() - began
        before = state.env_steps
        record.advance(report)
        diverged = report["update/skipped"] > 0 and config.on_nonfinite == "stop"
        if record.evaluation_due and not diverged:
            report |= self._evaluate()
        report |= {
            "wall_s": time.perf_counter() - self._began,
            "time/compile_s": self.program.compile_s,
            "time/checkpoint_s": self._blocked_s,
        }
        state.wall_s, self._blocked_s = report["wall_s"], 0.0
        record.log.write(report)
        if diverged:
            record.track(report)
            self.display.line(
                f"stopped: a gradient was not finite, for the first time between steps {before:,} and "
                f"{state.env_steps:,}; updates with such gradients were skipped"
            )
            return DIVERGED
        self._can_save = True
        if self._call_back(report):
            signals.stop()
        due = time.perf_counter() - self._saved >= 60 * config.checkpoint_every_min
        asked, save = hosts.max_over_hosts(signals.code, due)
        # Keep a signal that came during this exchange for the next chunk: the other hosts don't know of it.
        signals.code = asked or signals.code
        code = 0 if record.complete else asked
        self._warn_of_failed_save()
        if config.checkpoint_every_min and (save or code or record.complete):
            self._save()
        elif code == PREEMPTED:
            code = TERMINATED
        if code != PREEMPTED and (code or record.complete):
            # An uninterrupted run has no such report, so it replaces the last line.
            if not record.evaluation_due:
                report |= self._evaluate()
            report |= self._score_kept()
            record.log.rewrite_last(report)
        record.track(report)
        self.display.show(report)
        return code

    def _call_back(self, report: Report) -> bool:
        """Call the callback; return whether it wants the run to stop. Its error is kept and raised later."""
        try:
            answer = self._callback(report) if self._callback else None
            return bool(isinstance(answer, bool | np.bool_) and answer)
        except BaseException as error:
            self._error = error
            return True

    def _evaluate(self) -> Report:
        """Evaluate the current policy."""
        (scored,) = self.program.evaluate([self.record.outcome.env_steps])
        self._evaluated_s += scored["time/eval_s"]
        return self.record.note_evaluation(scored, lambda meta: self.program.policy(0, meta))

    def _score_kept(self) -> Report:
        """Score the best policy in fresh episodes: the highest of many noisy returns is biased upwards."""
        kept = self.record.kept
        return self.record.note_kept_score(self.program.score_kept({0: kept})[0]) if kept else {}

    def _save(self) -> None:
        """Start to save a checkpoint; training waits for the copy in memory, not for the disk."""
        began = time.perf_counter()
        record = self.record
        size = self.checkpoints.save(
            self.program.state,
            {
                "env_steps": record.outcome.env_steps,
                "outcome": dataclasses.asdict(record.outcome),
                "tail": record.log.tail,
                "wandb_id": record.wandb.id if record.wandb else None,
                "versions": versions(),
            },
            [self.out / name for name in POLICIES],
            self.config.checkpoint_replay,
        )
        self._saved, self._can_save = time.perf_counter(), False
        self._blocked_s = self._saved - began
        if not self._save_reported:
            self._save_reported = True
            replay = self.program.replay_bytes if self.config.checkpoint_replay else 0
            self.display.line(
                f"checkpoint of {size / 1e6:,.0f} MB, including {replay / 1e6:,.0f} MB of replay; "
                f"training waited {self._blocked_s:.1f} s"
            )

    def _warn_of_failed_save(self) -> None:
        if error := self.checkpoints.failure():
            why = one_line(error)
            self.display.line(f"warning: a checkpoint could not be written ({why}); the previous one is kept")

    def _close(self, code: int, problem: str) -> None:
        """Draw the learning curve and print how the run ended."""
        if not hosts.is_first():
            return
        state = self.record.outcome
        if code != PREEMPTED:
            self.record.draw()
        for text in closing_lines(self.config, self.out, state, code, problem, self.program.compile_s):
            self.display.line(text)
