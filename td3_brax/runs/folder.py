"""A run's folder: made for a new run, or gone on from; held by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from td3_brax.cli import load_config
from td3_brax.config import FIELDS, Config
from td3_brax.option import ConfigError, show
from td3_brax.runs.files import write_config

if TYPE_CHECKING:
    pass


def contains_run(out: Path) -> bool:
    """Whether a run was begun in ``out``."""
    return any((out / name).exists() for name in ("config.json", "metrics.jsonl"))


@contextlib.contextmanager
def hold(out: Path) -> Iterator[None]:
    """Keep others out of ``out`` for the block, or until this process ends, however it does.

    Raises:
        ConfigError: another one is in it, or it can't be opened.
    """
    busy = ConfigError("out", str(out), "another process is training in it")
    try:
        place = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be read ({error.strerror})") from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy from None
        if not out.exists() or not os.path.samestat(os.fstat(place), out.stat()):
            raise busy  # which has discarded the folder meanwhile
        yield
    finally:
        os.close(place)


@contextlib.contextmanager
def claim(wanted: str, default: str) -> Iterator[Path]:
    """Make the folder ``wanted``, if it is not there, and keep others out of it for the block.

    What is empty after the block goes again, and ``runs`` with it.

    Args:
        wanted: a path; empty for a new folder in ``runs``, named after ``default`` and the time.
    Raises:
        ConfigError: it can't be made, or another process is in it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for count in itertools.count(1):
        out = Path(wanted or f"runs/{default}-{stamp}{f'-{count}' * (count > 1)}")
        try:
            out.mkdir(parents=True, exist_ok=bool(wanted))
        except OSError as error:
            if isinstance(error, FileExistsError) and not wanted:  # begun in the same second
                continue
            raise ConfigError("out", str(out), f"can't be written ({error.strerror})") from None
        with hold(out):
            try:
                yield out
            finally:
                _remove_empty(out)
        return


def begin(out: Path, config: Config, say: Callable[[str], None]) -> None:
    """Make ``out``, which this process holds, the folder of a new run, and prove that it can be written.

    A run of the same options that was stopped before there was anything to go on from starts again.

    Raises:
        ConfigError: it holds another run, or can't be written.
    """
    if contains_run(out):
        why = "holds a run already, which is never overwritten; --resume it, or choose another folder"
        if not (out / "config.json").is_file() or has_checkpoints(out) or complete(out):
            raise ConfigError("out", str(out), why)
        before = load_config(str(out / "config.json"))
        for name, field in FIELDS.items():
            had = before.get(name, field.default)
            if not field.metadata["may_change"] and name != "out" and had != getattr(config, name):
                raise ConfigError("out", str(out), f"{why} (its {name} is {show(had)})")
        say(f"{out} was stopped before its first checkpoint: starting again")
    start_again(out, config)


def start_again(out: Path, config: Config) -> None:
    """Make ``out`` that of a new run; policies that are there go to ``stopped-1`` in it, or the next number.

    Raises:
        ConfigError: it can't be written.
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
    """Remove a new run's folder if nothing was learnt in it, and ``runs`` if that leaves it empty."""
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
    """Whether there are any, damaged or not."""
    return any((out / "checkpoints").glob("[0-9]*"))


def complete(out: Path) -> bool:
    """Whether the last line of a run's metrics is that of its end."""
    try:
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        return bool(last["env_steps"] >= load_config(str(out / "config.json"))["total_env_steps"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return False
