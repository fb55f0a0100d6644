"""One Weights & Biases run beside a training run: begun while the program compiles, never in its way.

What W&B can't take (no network, no key, a server that stops answering) stays in the run's folder, from where
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
"""Where runs go unless WANDB_PROJECT says otherwise."""
ANSWER_S = 30.0
"""How long W&B may take to answer at the beginning, which is beside the compiling."""
FINISH_S = 8.0
"""How long it may take for each step of the end: to get the policies, the last lines, and to close."""


_BEGINNING = threading.Lock()
"""One run of a process begins at a time."""


MODES = {"run": "online", "dryrun": "offline"}
"""W&B's older names for them."""
OURS = ("WANDB_CONSOLE", "WANDB_INIT_TIMEOUT", "WANDB_RESUME")
"""What W&B takes from the environment, and a run here sets itself."""
SWEEPS = ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_RUN_ID")
"""The same of runs that train beside others, which they would make one."""


def project() -> str:
    """Where runs go."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def asked() -> str | None:
    """The mode that the environment asks for, if it does: by WANDB_MODE, or as a sweep's agent.

    Raises:
        ConfigError: it is no mode that a run here can have.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_SWEEP_ID") else None)
    mode = MODES.get(mode, mode) if mode else None
    if mode not in (None, "online", "offline", "disabled"):
        raise ConfigError("wandb", mode, "WANDB_MODE of the environment must be online, offline or disabled")
    return mode


def check(mode: str, say: Callable[[str], None], together: bool = False) -> None:
    """Find what W&B refuses of the environment before anything is compiled; say what is not followed.

    Args:
        mode: as the run will have it; one that W&B has no part in is not checked.
        together: whether runs train beside others.
    Raises:
        ConfigError: a variable that W&B refuses.
    """
    if mode == "disabled":
        return
    import wandb

    given = {name: value for name, value in os.environ.items() if name.startswith("WANDB_") and value}
    for name in sorted({*given} - {"WANDB_API_KEY"}):  # a key that can't be used is told while training
        try:
            wandb.Settings().update_from_env_vars({name: given[name]})
        except Exception as error:
            # Pydantic's own texts repeat the value, which for some variables is a secret.
            why = error.errors()[0]["msg"] if hasattr(error, "errors") else one_line(error)
            if name == "WANDB_PROJECT" and "/" in given[name]:
                why += "; the team goes into WANDB_ENTITY"
            raise ConfigError("wandb", mode, f"W&B refuses {name} of the environment: {why}") from None
    ignored = [name for name in (*OURS, *(SWEEPS if together else ())) if name in given]
    if "WANDB_DIR" in given and "WANDB_SWEEP_ID" not in given:  # an agent sets it itself
        ignored.append("WANDB_DIR")
    if asked() not in (None, mode) and "WANDB_MODE" in given:
        ignored.append("WANDB_MODE")
    if ignored:
        say(f"note: of the environment a run here does not follow {', '.join(ignored)}")


@dataclasses.dataclass(frozen=True)
class Membership:
    """What a run that trains beside others has in common with them."""

    name: str
    """The run's own."""
    group: str
    project: str
    entity: str | None = None
    sweep_id: str | None = None


def log_in(mode: Any) -> None:
    """Make W&B ready, without a word or a question.

    Raises:
        ConnectionError: it is to be online, and there is no key.
        Exception: many kinds, for a key or a server that it can't use.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if mode == "online" and not wandb.login(prompt=False):
        raise ConnectionError("no key; see `wandb login`")


class WandbRun:
    """A W&B run of its own or, under a sweep's agent, the sweep's.

    Args:
        out: the run's folder; W&B's files go into it.
        run_id: of the W&B run that this goes on with, or that W&B has chosen.
        stop: called, from another thread, when W&B asks the run to stop.
        say: takes a line for people.
        membership: of a member of a packed sweep.
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
        pool.shutdown(wait=False)  # not ``with``, which waits: the program compiles meanwhile

    def _begin(self) -> Any:
        """Import W&B and begin the run; offline where it can't be online."""
        with _BEGINNING:
            return self._begin_alone()

    def _begin_alone(self) -> Any:
        mode = self._config.wandb
        try:
            log_in(mode)
            return self._init(mode)
        except Exception as error:  # W&B raises many kinds, some of them only in use by it
            self._why_offline = one_line(error)
        if mode == "online":
            with contextlib.suppress(Exception):
                run = self._init("offline")
                self._lines.append(
                    f"warning: W&B: {self._why_offline}; what it would have got stays in {self._out}/wandb"
                )
                return run
        self._lines.append(f"warning: W&B: {self._why_offline}; it gets nothing")
        return None

    def _init(self, mode: Any) -> Any:
        import wandb

        own = os.environ.get("WANDB_NAME") or self._out.name
        member = self._membership or Membership(own, "", project())
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
        """One report; those that W&B has already, from before a run went on, are left out."""
        self._waiting.append((chunk, {k: v for k, v in report.items() if v is not None}))
        if self._begun.done():
            self._flush()

    def _flush(self) -> None:
        run = self._begun.result()
        for line in self._lines:  # here, for what is printed while the tasks are imported is lost
            self._say(line)
        self._lines = []
        try:
            for chunk, report in self._waiting:
                if run and not self._failed and chunk >= run.step:
                    run.log(report, step=chunk)
        except Exception as error:  # its own process has ended, for one
            self._failed, self._why_offline = True, one_line(error)
            self._say(f"warning: W&B: {self._why_offline}; it gets no more of this run")
        self._waiting = []

    def close(self, code: int, preempted: bool, summary: Mapping[str, Any], files: Sequence[Path]) -> str:
        """End the run with exit code ``code``; ``preempted`` runs of a sweep are queued again.

        Returns:
            what to do for W&B to get the rest, or nothing.
        """
        try:
            run = self._begun.result(timeout=ANSWER_S + FINISH_S)
            self._flush()
            if run is None:  # which has been said
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
            return f"send it to W&B with: {shlex.join(['wandb', 'sync', str(folders[-1])])}"
        return f"warning: W&B: {self._why_offline}" if self._why_offline else ""

    def _send(self, run: Any, files: Sequence[Path]) -> None:
        """The curve as a picture, the film, the policies as an artifact, which a server may refuse."""
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
                self._say(f"warning: W&B: {one_line(error)}; it got no policies")
