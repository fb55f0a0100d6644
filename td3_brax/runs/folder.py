"""The folder of a run: made for a new run or resumed, and locked by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from td3_brax.cli import load_config
from td3_brax.config import FIELDS, Config
from td3_brax.option import ConfigError, show
from td3_brax.runs.files import write_config


def contains_run(out: Path) -> bool:
    """Return whether a run was started in ``out``."""
    return any((out / name).exists() for name in ("config.json", "metrics.jsonl"))


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Lock ``out`` for the duration of the block; the lock ends with this process, even if it is killed.

    Raises:
        ConfigError: another process has locked the folder, or it can't be opened.
    """
    busy = ConfigError("out", str(out), "another process is training in this folder")
    try:
        descriptor = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be read ({error.strerror})") from None
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy from None
        if not out.exists() or not os.path.samestat(os.fstat(descriptor), out.stat()):
            raise busy  # the other process has discarded the folder meanwhile
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def create_and_lock(wanted: str, default: str) -> Iterator[Path]:
    """Make the folder ``wanted`` unless it exists, and lock it for the duration of the block.

    A folder that is empty after the block is removed, and ``runs`` too if that leaves it empty.

    Args:
        wanted: a path; empty for a new folder in ``runs``, named after ``default`` and the time.
    Raises:
        ConfigError: the folder can't be made, or another process has locked it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for count in itertools.count(1):
        out = Path(wanted or f"runs/{default}-{stamp}{f'-{count}' * (count > 1)}")
        try:
            out.mkdir(parents=True, exist_ok=bool(wanted))
        except OSError as error:
            if isinstance(error, FileExistsError) and not wanted:  # made in the same second
                continue
            raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None
        with lock(out):
            try:
                yield out
            finally:
                _remove_empty(out)
        return


def start_new(out: Path, config: Config, say: Callable[[str], None]) -> None:
    """Make ``out``, which this process has locked, the folder of a new run; fails if it can't be written.

    If ``out`` contains a run with the same options that was stopped before its first checkpoint, that run
    starts again.

    Raises:
        ConfigError: the folder contains another run, or can't be written.
    """
    if contains_run(out):
        why = "already contains a run, which is never overwritten; --resume it, or choose another folder"
        if not (out / "config.json").is_file() or has_checkpoints(out) or is_complete(out):
            raise ConfigError("out", str(out), why)
        before = load_config(str(out / "config.json"))
        for name, field in FIELDS.items():
            old = before.get(name, field.default)
            if not field.metadata["may_change"] and name != "out" and old != getattr(config, name):
                raise ConfigError("out", str(out), f"{why} (that run has --{name}={show(old)})")
        say(f"the run in {out} was stopped before its first checkpoint; it starts again")
    restart(out, config)


def restart(out: Path, config: Config) -> None:
    """Prepare ``out`` for a run from the beginning.

    If it contains policies, they move with their metrics and curve to ``stopped-1``, or the next free number.

    Raises:
        ConfigError: the folder can't be written.
    """
    try:
        if policies := list(out.glob("policy_*.npz")):
            aside = next(p for i in itertools.count(1) if not (p := out / f"stopped-{i}").exists())
            aside.mkdir()
            for path in [*policies, *out.glob("metrics.jsonl"), *out.glob("curve.png")]:
                path.rename(aside / path.name)
        (out / "metrics.jsonl").unlink(missing_ok=True)
        write_config(out, config)
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None


def discard(out: Path) -> None:
    """Remove the folder of a new run that has no reports, and ``runs`` too if that leaves it empty."""
    with contextlib.suppress(OSError):
        lines = any(path.stat().st_size for path in out.glob("metrics.jsonl"))
        if lines or has_checkpoints(out) or any(out.glob("policy_*.npz")):
            return
        for name in ("metrics.jsonl", "about.json", "config.json"):
            (out / name).unlink(missing_ok=True)
        _remove_empty(out)


def _remove_empty(out: Path) -> None:
    with contextlib.suppress(OSError):
        out.rmdir()
        if out.parent.name == "runs":
            out.parent.rmdir()


def has_checkpoints(out: Path) -> bool:
    """Return whether ``out`` has checkpoints, damaged or not."""
    return any((out / "checkpoints").glob("[0-9]*"))


def is_complete(out: Path) -> bool:
    """Return whether the metrics of the run in ``out`` reach its last step."""
    try:
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        return bool(last["env_steps"] >= load_config(str(out / "config.json"))["total_env_steps"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return False
