"""Log a training run to a Weights & Biases run, which starts while the program compiles and never blocks it.

What can't be sent to W&B (no network, no key, a server that stops answering) stays in the run's folder;
``wandb sync`` sends it later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path
from typing import Any

from td3_brax.config import Config
from td3_brax.option import ConfigError
from td3_brax.runs.tracking import Report, one_line

PROJECT = "td3-brax"
"""The W&B project of runs, unless WANDB_PROJECT is set."""
ANSWER_S = 30.0
"""Seconds that W&B may take to start a run, which happens during compilation."""
FINISH_S = 8.0
"""Seconds that each step of closing may take: uploading policies, sending the last lines, finishing."""


_START_LOCK = threading.Lock()
"""A process starts one W&B run at a time."""


OLD_MODE_NAMES = {"run": "online", "dryrun": "offline"}
"""Older names of W&B's modes."""
IGNORED = ("WANDB_CONSOLE", "WANDB_INIT_TIMEOUT", "WANDB_RESUME")
"""Variables of the environment that runs ignore, because they set these themselves."""
IGNORED_IF_PACKED = ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_RUN_ID")
"""Variables that members of a program ignore too: with them, all members would be one W&B run."""


def project() -> str:
    """Return the W&B project of runs."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def mode_from_environment() -> str | None:
    """Return the mode set by WANDB_MODE, ``online`` under a sweep's agent, else None.

    Raises:
        ConfigError: WANDB_MODE is not a mode that runs support.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_SWEEP_ID") else None)
    mode = OLD_MODE_NAMES.get(mode, mode) if mode else None
    if mode not in (None, "online", "offline", "disabled"):
        raise ConfigError(
            "wandb", mode, "the environment variable WANDB_MODE must be online, offline or disabled"
        )
    return mode


def check_environment(mode: str, say: Callable[[str], None], packed: bool = False) -> None:
    """Check W&B's environment variables before anything is compiled; print which are ignored.

    Args:
        mode: the mode of the run; nothing is checked if it is ``disabled``.
        packed: whether several runs train in one program.
    Raises:
        ConfigError: W&B rejects a variable.
    """
    if mode == "disabled":
        return
    import wandb

    given = {name: value for name, value in os.environ.items() if name.startswith("WANDB_") and value}
    for name in sorted({*given} - {"WANDB_API_KEY"}):  # a wrong key is reported during training
        try:
            wandb.Settings().update_from_env_vars({name: given[name]})
        except Exception as error:
            # The text of Pydantic's errors repeats the value, which may be a secret.
            why = error.errors()[0]["msg"] if hasattr(error, "errors") else one_line(error)
            if name == "WANDB_PROJECT" and "/" in given[name]:
                why += "; set the team with WANDB_ENTITY"
            raise ConfigError("wandb", mode, f"W&B rejects the environment variable {name}: {why}") from None
    ignored = [name for name in (*IGNORED, *(IGNORED_IF_PACKED if packed else ())) if name in given]
    if "WANDB_DIR" in given and "WANDB_SWEEP_ID" not in given:  # a sweep's agent sets WANDB_DIR itself
        ignored.append("WANDB_DIR")
    if mode_from_environment() not in (None, mode) and "WANDB_MODE" in given:
        ignored.append("WANDB_MODE")
    if ignored:
        say(f"note: these environment variables are ignored: {', '.join(ignored)}")


@dataclasses.dataclass(frozen=True)
class Membership:
    """The W&B settings of a run that trains in one program with others."""

    name: str
    """Name of this run."""
    group: str
    project: str
    entity: str | None = None
    sweep_id: str | None = None


def log_in(mode: Any) -> None:
    """Set up W&B without output or prompts.

    Raises:
        ConnectionError: the mode is ``online``, but there is no key.
        Exception: of many types, for a key or a server that W&B can't use.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if mode == "online" and not wandb.login(prompt=False):
        raise ConnectionError("no key; see `wandb login`")


class WandbRun:
    """The W&B run of a training run; under a sweep's agent, a run of that sweep.

    Args:
        out: the folder of the training run; W&B's files go into it.
        run_id: id of the W&B run to continue, or the id that W&B has chosen.
        stop: called from another thread when W&B asks the run to stop.
        say: prints a line for people.
        membership: settings of a member of a packed sweep.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        run_id: str | None,
        stop: Callable[[], None],
        say: Callable[[str], None],
        membership: Membership | None = None,
    ) -> None:
        self._membership = membership
        given = None if membership else os.environ.get("WANDB_RUN_ID")
        self.id = run_id or given or secrets.token_hex(4)
        self._config, self._out, self._stop, self._say = config, out, stop, say
        self._waiting: list[tuple[int, Report]] = []
        self._lines: list[str] = []
        self._why_offline = ""
        self._closed = self._failed = False
        pool = ThreadPoolExecutor(1)
        self._begun: Future[Any] = pool.submit(self._begin)
        pool.shutdown(wait=False)  # ``with`` would wait, but the program compiles meanwhile

    def _begin(self) -> Any:
        """Import W&B and start the run; if it can't be online, start it offline."""
        with _START_LOCK:
            return self._begin_locked()

    def _begin_locked(self) -> Any:
        mode = self._config.wandb
        try:
            log_in(mode)
            return self._init(mode)
        except Exception as error:  # W&B raises many types, also internal ones
            self._why_offline = one_line(error)
        if mode == "online":
            with contextlib.suppress(Exception):
                run = self._init("offline")
                self._lines.append(
                    f"warning: W&B: {self._why_offline}; logging offline to {self._out}/wandb instead"
                )
                return run
        self._lines.append(f"warning: W&B: {self._why_offline}; nothing is logged to W&B")
        return None

    def _init(self, mode: Any) -> Any:
        import wandb

        name = os.environ.get("WANDB_NAME") or self._out.name
        member = self._membership or Membership(name, "", project())
        run = wandb.init(
            id=self.id,
            resume="allow",
            reinit="create_new",
            mode=mode,
            project=member.project,
            entity=member.entity,
            name=member.name,
            group=member.group or None,
            dir=self._out,
            config=dataclasses.asdict(self._config),
            settings=wandb.Settings(
                sweep_id=member.sweep_id or os.environ.get("WANDB_SWEEP_ID"),
                console="off",
                silent=True,
                init_timeout=ANSWER_S,
                finish_timeout=FINISH_S,
                finish_timeout_raises=True,
                stop_fn=self._stop,
            ),
        )
        run.define_metric("env_steps")
        run.define_metric("*", step_metric="env_steps")
        if mode == "online" and not self._membership:
            self._lines.append(f"W&B: {run.url}")
        return run

    def log(self, chunk: int, report: Report) -> None:
        """Log one report. Reports that W&B has already, from before a run was resumed, are skipped."""
        self._waiting.append((chunk, {k: v for k, v in report.items() if v is not None}))
        if self._begun.done():
            self._flush()

    def _flush(self) -> None:
        run = self._begun.result()
        for line in self._lines:  # only now: output printed while tasks are imported is lost
            self._say(line)
        self._lines = []
        try:
            for chunk, report in self._waiting:
                if run and not self._failed and chunk >= run.step:
                    run.log(report, step=chunk)
        except Exception as error:  # for example, W&B's process has ended
            self._failed, self._why_offline = True, one_line(error)
            self._say(f"warning: W&B: {self._why_offline}; nothing more is logged to W&B")
        self._waiting = []

    def close(self, code: int, preempted: bool, summary: Mapping[str, Any], files: Sequence[Path]) -> str:
        """End the run with exit code ``code``; W&B queues ``preempted`` runs of a sweep again.

        Returns:
            a message that says how to send the rest to W&B, or ``""``.
        """
        try:
            run = self._begun.result(timeout=ANSWER_S + FINISH_S)
            self._flush()
            if run is None:  # the warning has been printed
                return ""
            run.summary.update(summary)
            if not preempted:
                sending = threading.Thread(target=self._send, args=(run, files), daemon=True)
                sending.start()
                sending.join(FINISH_S)
            elif run.sweep_id:
                run.mark_preempting()
            self._closed = True
            run.finish(exit_code=code)
        except StillWaiting:
            self._why_offline = "no answer"
        except Exception as error:
            self._why_offline = one_line(error)
        folders = sorted((self._out / "wandb").glob("*run-*"))
        if (self._why_offline or self._config.wandb == "offline") and folders:
            return f"upload this run to W&B with: {shlex.join(['wandb', 'sync', str(folders[-1])])}"
        return f"warning: W&B: {self._why_offline}" if self._why_offline else ""

    def _send(self, run: Any, files: Sequence[Path]) -> None:
        """Upload the curve as a picture, the film, and the policies as an artifact, which may be refused."""
        import wandb

        try:
            artifact = wandb.Artifact(f"policy-{self.id}", type="model")
            for path in files:
                if path.suffix == ".png":
                    run.log({"curve": wandb.Image(str(path))})
                elif path.suffix == ".mp4":
                    run.log({"film": wandb.Video(str(path), format="mp4")})
                else:
                    artifact.add_file(str(path))
            run.log_artifact(artifact)
        except Exception as error:
            if not self._closed:
                self._say(f"warning: W&B: {one_line(error)}; the policies were not uploaded")
