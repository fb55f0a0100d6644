"""Resume a run: find its folder, its options and its newest usable checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from td3_brax.cli import load_config
from td3_brax.config import FIELDS, Config
from td3_brax.option import ConfigError, show
from td3_brax.runs.files import write_atomically, write_config
from td3_brax.runs.folder import has_checkpoints, is_complete
from td3_brax.runs.outcome import Outcome

if TYPE_CHECKING:
    from td3_brax.runs import checkpoint


def find_run(resume: str | None, explicit: Mapping[str, Any]) -> Path | None:
    """Return the folder of the run to resume, or None to start a new run.

    Raises:
        ConfigError: the folder contains no run, or ``auto`` was given without ``--out``.
    """
    if resume is None:
        return None
    if resume != "auto":
        if not (Path(resume) / "config.json").is_file():
            raise ConfigError("resume", resume, "this folder contains no run (no config.json)")
        return Path(resume)
    if not explicit.get("out"):
        raise ConfigError("resume", resume, "needs --out: the folder of the run to resume or to start")
    return Path(explicit["out"]) if (Path(explicit["out"]) / "config.json").is_file() else None


def resumed_options(run: Path, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the run in ``run``, with the changes of ``explicit``.

    Raises:
        ConfigError: ``explicit`` changes an option that may not change.
    """
    before = load_config(str(run / "config.json"))
    for name, value in explicit.items():
        if name == "devices" and value == 0:  # "all": their number is checked later
            continue
        if name != "out" and value != before.get(name, FIELDS[name].default):
            if not FIELDS[name].metadata["may_change"]:
                raise ConfigError(
                    name, value, f"can't change when a run is resumed; {run} has {show(before.get(name))}"
                )
            before[name] = value
    return before | {"out": str(run)}


@dataclass
class Start:
    """The checkpoint that a run resumes from."""

    path: Path
    """Folder of the checkpoint."""
    arrays: checkpoint.Arrays
    """All arrays of the TrainState, by path."""
    outcome: Outcome
    tail: tuple[int, str]
    """Position in ``metrics.jsonl`` and its last line; see :class:`~td3_brax.runs.tracking.JsonLines`."""
    versions: dict[str, str]
    wandb_id: str | None
    """Id of the W&B run to continue."""
    files: dict[str, bytes]
    """Copies of the run's policies."""


def is_finished(out: Path, config: Config) -> bool:
    """Return whether the run in ``out`` is complete and has no checkpoints.

    If there are checkpoints, they decide whether the run is complete.

    Raises:
        ConfigError: it is finished, but ``config`` asks for more steps.
    """
    if has_checkpoints(out) or not is_complete(out):
        return False
    if config.total_env_steps > (old := load_config(str(out / "config.json"))["total_env_steps"]):
        why = f"{out} is complete with {old} steps, and has no checkpoint to resume from"
        raise ConfigError("total_env_steps", config.total_env_steps, why)
    return True


def find_start(out: Path, say: Callable[[str], None]) -> Start | None:
    """Load the newest usable checkpoint of the run in ``out``; changes nothing.

    Returns:
        the checkpoint; None if the run was stopped before its first one, so that it may start again.
    Raises:
        ConfigError: the run has checkpoints, but none can be used.
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
            say(f"warning: {error}; trying the checkpoint before it")
    if not folders:
        say(f"the run in {out} was stopped before its first checkpoint; it starts again")
        return None
    raise ConfigError("resume", str(out), "this folder contains no usable checkpoint")


def restore_files(out: Path, config: Config, files: Mapping[str, bytes]) -> None:
    """Restore the run's files from a checkpoint, and write the current options.

    Raises:
        ConfigError: the files can't be written.
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
