"""A run's folder: made for a new run, or gone on from; held by one process at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
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
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave the new name with nothing in it
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
    if holds_run(out):
        why = "holds a run already, which is never overwritten; --resume it, or choose another folder"
        if not (out / "config.json").is_file() or _checkpoints(out) or complete(out):
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
        if lines or _checkpoints(out) or any(out.glob("policy_*.npz")):
            return
        for name in ("metrics.jsonl", "about.json", "config.json"):
            (out / name).unlink(missing_ok=True)
        _remove_empty(out)


def _remove_empty(out: Path) -> None:
    with contextlib.suppress(OSError):
        out.rmdir()
        if out.parent.name == "runs":
            out.parent.rmdir()


def _checkpoints(out: Path) -> bool:
    """Whether there are any, damaged or not."""
    return any((out / "checkpoints").glob("[0-9]*"))


def complete(out: Path) -> bool:
    """Whether the last line of a run's metrics is that of its end."""
    try:
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        return bool(last["env_steps"] >= load_config(str(out / "config.json"))["total_env_steps"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return False


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
    kept: float = math.nan
    """Mean return of the best policy in episodes that no evaluation had; NaN before the end."""
    kept_std: float = math.nan
    broken_steps: int = 0
    """Environment steps that broke while training."""
    waited_steps: int = 0
    """Steps that no environment made, for want of an initial state."""
    wall_s: float = 0.0
    """Since the command, that of the processes before this one included."""

    def improves(self) -> bool:
        """Return whether the latest evaluation is the best: fewest episodes broke, then most returned."""
        first = math.isinf(self.best)
        return first or (-self.broken, self.return_mean) > (-self.best_broken, self.best)

    def keep(self, env_steps: int) -> None:
        """Note the latest evaluation, after ``env_steps``, as the best."""
        self.best, self.best_env_steps, self.best_broken = self.return_mean, env_steps, self.broken


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


def nothing_left(out: Path, config: Config) -> bool:
    """Whether the run in ``out`` is complete and keeps no checkpoints; with them, that is for them to say.

    Raises:
        ConfigError: it is, and ``config`` asks for more steps.
    """
    if _checkpoints(out) or not complete(out):
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
    from td3_brax import checkpoint

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
