"""The main job on the host: build, run chunks, evaluate, track, save."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from td3_brax import __version__, folder
from td3_brax.checkpoint import CheckpointError, Checkpoints
from td3_brax.cli import guarded, parse_train
from td3_brax.config import Config, ConfigError
from td3_brax.device import on_devices, platform, prepare_jax
from td3_brax.folder import Start
from td3_brax.presets import CPU_DEVICES, resolve
from td3_brax.record import POLICIES, Record
from td3_brax.schedule import make_schedule
from td3_brax.tracking import Display, Report, duration, one_line
from td3_brax.wandb_run import WandbRun

INTERRUPTED = 130
"""Ctrl-C, or W&B's own stop: not to be started again."""
PREEMPTED = 75
"""SIGTERM, and all is saved: start me again with --resume."""
TERMINATED = 143
"""SIGTERM, of a run without checkpoints."""
DIVERGED = 1


def _say(text: str) -> None:
    """A line from within a signal handler, past whatever holds or redirects the streams."""
    os.write(2, f"{text}\n".encode())


class Signals:
    """Ctrl-C (SIGINT) and preemption (SIGTERM), and the exit code each leads to.

    Before training: leave at once. While training: after the chunk; more of them do no harm.
    The handler acts by itself, rather than by raising: an exception raised inside a library's import or
    callback may be swallowed there. Outside the main thread, where Python takes no signals, it does nothing.

    Args:
        alone: whether the process is the command's own. In somebody's program, such as a notebook, SIGTERM
            is theirs, and Ctrl-C before training is a KeyboardInterrupt.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.code = 0
        """What was asked for: ``INTERRUPTED``, ``PREEMPTED``, or 0 for neither yet."""
        self.training = False
        self.new: Path | None = None
        """The folder of a new run, once it is made."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM)[: 1 + self.alone]:
                self._before[number] = signal.signal(number, self._act)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop(self) -> None:
        """As Ctrl-C does; from any thread."""
        self._act(signal.SIGINT, None)

    def _act(self, number: int, _: object) -> None:
        code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        if not self.training:
            if not self.alone:
                raise KeyboardInterrupt
            if self.new is not None:
                folder.discard(self.new)
            _say("td3-brax: stopped before training began; nothing is lost")
            os._exit(code)  # do not wait for the compiler's threads
        if not self.code:
            _say("stopping after this chunk; what was learnt is saved")
            self.code = code


Callback = Callable[[Report], object]
"""Takes each report (a line of ``metrics.jsonl``); one that returns True stops the run, as Ctrl-C does."""


class Run:
    """A run in its folder, from its first chunk or from a checkpoint on."""

    def __init__(
        self, config: Config, out: Path, start: Start | None, began: float, callback: Callback | None = None
    ) -> None:
        """``began``: when the command started (``time.perf_counter``)."""
        self.config, self.out, self.schedule = config, out, make_schedule(config)
        self._callback = callback
        self.display = Display(self.schedule.total_env_steps)
        self.checkpoints = Checkpoints(out, config.checkpoint_keep)
        self._began = self._saved = self._command = began
        self._start = start
        self._blocked_s = 0.0
        self._told = False
        self._trained_s = self._evaluated_s = 0.0
        if start:
            self._began -= start.outcome.wall_s

    def train(self, signals: Signals) -> int:
        """All chunks that are left; returns the exit code."""
        display, schedule, start = self.display, self.schedule, self._start
        if start and start.outcome.chunk >= schedule.chunks:
            display.line(f"{self.out} is complete: {start.outcome.env_steps:,} steps; nothing to do")
            return 0
        wandb = None
        if self.config.wandb != "disabled":
            before = start.wandb_id if start else None
            wandb = WandbRun(self.config, self.out, before, signals.stop, display.line)
        from td3_brax import shards
        from td3_brax.program import Program

        self._imported = time.perf_counter()
        self.program = Program([self.config], display.line, shards.split(self.config.devices))
        self.record = Record(self.config, self.out, display.line, wandb, start.outcome if start else None)
        if start:
            self._go_on(start)
            self._start = start = None
        else:
            self.program.begin()
        state = self.record.outcome
        display.line(
            f"{self.config.env}: {schedule.total_env_steps:,} steps in {self.config.num_envs} environments, "
            f"{schedule.updates} update{'s' * (schedule.updates > 1)} of {self.config.batch_size} after "
            f"every {schedule.steps} vector step{'s' * (schedule.steps > 1)}; greedy evaluation every "
            f"{schedule.chunks_per_eval * schedule.env_steps:,} steps; writing to {self.out}"
        )
        signals.training = True
        self._saved = time.perf_counter()
        display.begin(state.env_steps, state.best)
        code = 0
        try:
            while not (code or self.record.complete):
                code = self._chunk(signals)
        finally:
            display.close()
        self.checkpoints.wait()
        self._warn_of_saving()
        if code == 0:
            self.checkpoints.prune(1)
        self.record.log.close()
        self._close(code)
        times = {"import": self._imported - self._command, "compile": self.program.compile_s}
        times |= {"train": self._trained_s, "eval": self._evaluated_s}
        summary: Report = {f"time/{part}_s": seconds for part, seconds in times.items()}
        summary |= {"compile_cache_hit": self.program.cached, "device": versions()["device"]}
        self.record.close(code, code == PREEMPTED, summary)
        return code

    def _go_on(self, start: Start) -> None:
        """Put everything back as it was at the checkpoint."""
        folder.put_back(self.out, self.config, start.files)
        self.record.log.go_back(*start.tail)
        try:
            self.program.restore(start.arrays)
        except CheckpointError as error:
            raise ConfigError("resume", str(self.out), f"its checkpoint does not fit: {error}") from None
        line = self.display.line
        line(f"going on from {start.outcome.env_steps:,} of {self.schedule.total_env_steps:,} steps")
        for name, version in versions().items():
            if start.versions.get(name) != version:
                line(
                    f"note: begun with {name} {start.versions.get(name)}, going on with {version}: "
                    "not bit for bit"
                )

    def _chunk(self, signals: Signals) -> int:
        """One chunk, its line, and what is due with it; returns an exit code other than 0 to stop."""
        record, state, config = self.record, self.record.outcome, self.config
        began = time.perf_counter()
        (report,) = self.program.run_chunk()
        self._trained_s += time.perf_counter() - began
        before = state.env_steps
        record.advance(report)
        stopped = report["update/skipped"] > 0 and config.on_nonfinite == "stop"
        if record.due and not stopped:
            report |= self._evaluate()
        report |= {
            "wall_s": time.perf_counter() - self._began,
            "time/compile_s": self.program.compile_s,
            "time/checkpoint_s": self._blocked_s,
        }
        state.wall_s, self._blocked_s = report["wall_s"], 0.0
        record.log.write(report)
        if stopped:
            record.track(report)
            self.display.line(
                f"stopped: a loss or gradient was not finite, first between {before:,} and "
                f"{state.env_steps:,} steps; that update was not made"
            )
            return DIVERGED
        if self._callback and self._callback(report) is True:
            signals.stop()
        code = 0 if record.complete else signals.code
        self._warn_of_saving()
        due = time.perf_counter() - self._saved >= 60 * config.checkpoint_every_min
        if config.checkpoint_every_min and (due or code or record.complete):
            self._save()
        elif code == PREEMPTED:
            code = TERMINATED
        if not record.due and code != PREEMPTED and (code or record.complete):
            # Not a line that a run which was not stopped would have: it takes the last one's place.
            record.log.rewrite_last(report := report | self._evaluate())
        record.track(report)
        self.display.show(report)
        return code

    def _evaluate(self) -> Report:
        """Score the present policy."""
        (scored,) = self.program.evaluate([self.record.outcome.env_steps])
        self._evaluated_s += scored["time/eval_s"]
        return self.record.evaluated(scored, lambda meta: self.program.policy(0, meta))

    def _save(self) -> None:
        """Begin a checkpoint; training waits for the copy, not for the disk."""
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
        self._saved = time.perf_counter()
        self._blocked_s = self._saved - began
        if not self._told:
            self._told = True
            replay = self.program.replay_bytes if self.config.checkpoint_replay else 0
            self.display.line(
                f"checkpoint of {size / 1e6:,.0f} MB, of which replay {replay / 1e6:,.0f} MB; "
                f"training waited {self._blocked_s:.1f} s"
            )

    def _warn_of_saving(self) -> None:
        if error := self.checkpoints.failure():
            why = one_line(error)
            self.display.line(f"warning: the checkpoint could not be written ({why}); the one before stays")

    def _close(self, code: int) -> None:
        """The curve, and the closing line: what was reached, in how long, and what to do next."""
        config, out, state, line = self.config, self.out, self.record.outcome, self.display.line
        again = f"td3-brax train --resume {out}"
        if code == PREEMPTED:
            line(f"saved at {state.env_steps:,} steps in {out}; go on with: {again}")
            return
        self.record.draw()
        if math.isnan(state.return_mean):
            line(f"nothing was learnt yet; the log is in {out}")
            return
        word = {0: "done", INTERRUPTED: "stopped early", DIVERGED: "diverged"}.get(code, "stopped early")
        goes_on = code == INTERRUPTED and config.checkpoint_every_min
        line(
            f"{word}: greedy return {state.return_mean:,.0f} +- {state.return_std:,.0f} over "
            f"{config.eval_episodes} episodes after {state.env_steps:,} steps (best {state.best:,.0f} at "
            f"{state.best_env_steps:,}) in {duration(state.wall_s)}, of which compiling "
            f"{duration(self.program.compile_s)}.\nsaved in {out}: policy_best.npz, policy_last.npz, "
            f"curve.png, metrics.jsonl. Next: {again if goes_on else f'td3-brax eval {out}'}"
        )


def versions() -> dict[str, str]:
    """Of what decides a run's numbers."""
    import jax

    return {"td3-brax": __version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind}


def job(argv: Sequence[str]) -> int:
    """``td3-brax train``; returns the exit code."""
    began = time.perf_counter()
    explicit, resume = parse_train(argv)
    if os.environ.get("WANDB_SWEEP_ID"):
        explicit = {"wandb": "online"} | explicit
    with Signals() as signals:
        return launch(explicit, resume, signals, began)[0]


def launch(
    explicit: Mapping[str, Any],
    resume: str | None,
    signals: Signals,
    began: float,
    callback: Callback | None = None,
) -> tuple[int, Path]:
    """Start a run with the options ``explicit``, or go on with one; returns the exit code and its folder.

    Raises:
        ConfigError: an option that can't be used.
    """
    run = folder.find(resume, explicit)
    if run is not None:
        explicit = folder.options(run, explicit)
    prepare_jax(explicit.get("deterministic", False), explicit.get("devices", CPU_DEVICES))
    config = on_devices(resolve(explicit, platform()), asked="devices" in explicit)
    make_schedule(config)
    if run is None:
        return _start(config, signals, began, callback)
    with folder.hold(run):
        start = folder.go_on(run, resume == "auto" and config.checkpoint_every_min > 0, print)
        if start is None:
            (run / "metrics.jsonl").unlink(missing_ok=True)
            folder.put_back(run, config, {})
        return Run(config, run, start, began, callback).train(signals), run


def _start(config: Config, signals: Signals, began: float, callback: Callback | None) -> tuple[int, Path]:
    """A new run; its folder goes again where it can't begin."""
    out = signals.new = folder.make(config)
    with folder.hold(out):
        try:
            return Run(config, out, None, began, callback).train(signals), out
        except (ConfigError, KeyboardInterrupt):
            (out / "metrics.jsonl").unlink(missing_ok=True)
            folder.discard(out)
            raise


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
