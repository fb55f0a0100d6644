"""Going on with a run: which folder, which options, which checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from td3_brax.cli import load_config
from td3_brax.config import FIELDS, Config
from td3_brax.option import ConfigError, show
from td3_brax.runs.files import write_config, write_atomically
from td3_brax.runs.outcome import Outcome

if TYPE_CHECKING:
    from td3_brax.runs import checkpoint

from td3_brax.runs.folder import complete, has_checkpoints


def find(resume: str | None, explicit: Mapping[str, Any]) -> Path | None:
    """The folder of the run to go on with, or None to start one.

    Raises:
        ConfigError: none is there, or ``auto`` without ``--out``.
    """
    if resume is None:
        return None
    if resume != "auto":
        if not (Path(resume) / "config.json").is_file():
            raise ConfigError("resume", resume, "no run is there (no config.json)")
        return Path(resume)
    if not explicit.get("out"):
        raise ConfigError("resume", resume, "needs --out, the folder to go on in or to start in")
    return Path(explicit["out"]) if (Path(explicit["out"]) / "config.json").is_file() else None


def options(run: Path, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run in ``run``, with those of ``explicit`` that may change.

    Raises:
        ConfigError: one of ``explicit`` differs and may not.
    """
    before = load_config(str(run / "config.json"))
    for name, value in explicit.items():
        if name == "devices" and value == 0:  # all: whether they are as many as before is found out later
            continue
        if name != "out" and value != before.get(name, FIELDS[name].default):
            if not FIELDS[name].metadata["may_change"]:
                raise ConfigError(
                    name, value, f"can't change when a run goes on; {run} has {show(before.get(name))}"
                )
            before[name] = value
    return before | {"out": str(run)}


@dataclass
class Start:
    """Where a run goes on."""

    path: Path
    """The checkpoint's."""
    arrays: checkpoint.Arrays
    """The whole state."""
    outcome: Outcome
    tail: tuple[int, str]
    """Of ``metrics.jsonl``."""
    versions: dict[str, str]
    wandb_id: str | None
    """Of the W&B run that it goes on with."""
    files: dict[str, bytes]
    """The run's policies as they were."""


def is_finished(out: Path, config: Config) -> bool:
    """Whether the run in ``out`` is complete and keeps no checkpoints; with them, that is for them to say.

    Raises:
        ConfigError: it is, and ``config`` asks for more steps.
    """
    if has_checkpoints(out) or not complete(out):
        return False
    if config.total_env_steps > (had := load_config(str(out / "config.json"))["total_env_steps"]):
        why = f"{out} is complete with {had}, and keeps no checkpoint to go on from"
        raise ConfigError("total_env_steps", config.total_env_steps, why)
    return True


def go_on(out: Path, say: Callable[[str], None]) -> Start | None:
    """The newest checkpoint of the run in ``out`` that can be used; changes nothing.

    Returns:
        None where it was stopped before its first checkpoint: it may start again.
    Raises:
        ConfigError: there are some, and none can be used.
    """
    from td3_brax.runs import checkpoint

    folders = checkpoint.saved(out)
    for path in folders:
        try:
            arrays, host, files = checkpoint.load(path)
            place, text = host["tail"]
            outcome = Outcome(**host["outcome"])
            tail = int(place), str(text)
            return Start(path, arrays, outcome, tail, dict(host["versions"]), host["wandb_id"], files)
        except (checkpoint.CheckpointError, KeyError, TypeError, ValueError) as error:
            say(f"warning: {error}; taking the checkpoint before it")
    if not folders:
        say(f"{out} was stopped before its first checkpoint: starting again")
        return None
    raise ConfigError("resume", str(out), "no checkpoint there can be used")


def restore_files(out: Path, config: Config, files: Mapping[str, bytes]) -> None:
    """Make the run's files what they were at a checkpoint, with the options of now.

    Raises:
        ConfigError: they can't be written.
    """
    try:
        for path in out.glob("policy_*.npz"):
            if path.name not in files:
                path.unlink()
        for name, content in files.items():
            write_atomically(out / name, content)
        write_config(out, config)
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None
