"""A run's folder: made for a new run, or gone on from; held by one process at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from td3_brax.cli import load_config
from td3_brax.config import FIELDS, Config, ConfigError, show

if TYPE_CHECKING:
    from td3_brax import checkpoint


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_config(out: Path, config: Config) -> None:
    """Write ``config.json``."""
    write_whole(out / "config.json", (json.dumps(dataclasses.asdict(config), indent=2) + "\n").encode())


def holds_run(out: Path) -> bool:
    """Whether a run was begun in ``out``."""
    return any((out / name).exists() for name in ("config.json", "metrics.jsonl"))


@contextlib.contextmanager
def hold(out: Path) -> Iterator[None]:
    """Keep others out of ``out`` for the block, or until this process ends, however it does.

    Raises:
        ConfigError: another one is in it.
    """
    place = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError("out", str(out), "another process is training in it") from None
        yield
    finally:
        os.close(place)


def make(config: Config) -> Path:
    """Create the run's folder, which must not hold a run yet, and prove that it can be written.

    Raises:
        ConfigError: it holds a run, or can't be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = config.out or f"runs/{config.env}-{config.preset}-s{config.seed}-{stamp}"
    out = Path(name)
    if holds_run(out):
        raise ConfigError(
            "out",
            name,
            "holds a run already, which is never overwritten; --resume it, or choose another folder",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_config(out, config)
    except OSError as error:
        raise ConfigError("out", name, f"can't be written ({error.strerror})") from None
    return out


def discard(out: Path) -> None:
    """Remove a run's folder that holds the options only, and ``runs`` if that leaves it empty."""
    with contextlib.suppress(OSError):
        (out / "config.json").unlink()
        out.rmdir()
        if out.parent.name == "runs":
            out.parent.rmdir()


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
        if name != "out" and value != before.get(name, FIELDS[name].default):
            if not FIELDS[name].metadata["may_change"]:
                raise ConfigError(
                    name, value, f"can't change when a run goes on; {run} has {show(before.get(name))}"
                )
            before[name] = value
    return before | {"out": str(run)}


@dataclass
class Outcome:
    """How a run stands."""

    env_steps: int = 0
    chunk: int = 0
    return_mean: float = math.nan
    return_std: float = math.nan
    broken: int = 0
    """Episodes of that evaluation that broke: the return is the others'."""
    best: float = -math.inf
    best_env_steps: int = 0
    best_broken: int = 0
    kept: float | None = None
    """Mean return of the best policy on episodes that no evaluation had; None before the end."""
    kept_std: float | None = None
    broken_steps: int = 0
    """Environment steps that broke while training."""
    waited_steps: int = 0
    """Steps that no environment made, for want of an initial state."""
    wall_s: float = 0.0
    """Since the command, that of the processes before this one included."""


@dataclass
class Start:
    """Where a run goes on."""

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


def go_on(out: Path, auto: bool, say: Callable[[str], None]) -> Start | None:
    """The newest checkpoint of the run in ``out`` that can be used; changes nothing.

    Returns:
        None where an ``auto`` run was stopped before its first checkpoint: it may start again.
    Raises:
        ConfigError: there is none.
    """
    from td3_brax import checkpoint

    folders = checkpoint.saved(out)
    for path in folders:
        try:
            arrays, host, files = checkpoint.load(path)
            place, text = host["tail"]
            outcome = Outcome(**host["outcome"])
            tail = int(place), str(text)
            return Start(arrays, outcome, tail, dict(host["versions"]), host["wandb_id"], files)
        except (checkpoint.CheckpointError, KeyError, TypeError, ValueError) as error:
            say(f"warning: {error}; taking the checkpoint before it")
    if auto and not folders:
        say(f"{out} was stopped before its first checkpoint: starting again")
        return None
    raise ConfigError("resume", str(out), "no checkpoint there can be used")


def put_back(out: Path, config: Config, files: Mapping[str, bytes]) -> None:
    """Make the run's files what they were at a checkpoint, with the options of now.

    Raises:
        ConfigError: they can't be written.
    """
    try:
        for path in out.glob("policy_*.npz"):
            if path.name not in files:
                path.unlink()
        for name, content in files.items():
            write_whole(out / name, content)
        write_config(out, config)
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None
