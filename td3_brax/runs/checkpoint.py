"""The whole state of a run on disk, exactly: written in the background, whole or not, checked when read.

RUN/checkpoints/<env_steps>/
    state/          every array of the TrainState, by orbax
    files/          the run's policies as they were
    host.json       what the host knows: counters, best evaluation, where metrics.jsonl stood
    checksums.json  SHA-256 of all of these: written last
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.runs import hosts

FORMAT = 1
FOLDER = "checkpoints"
REPLAY = ".replay.rows"

Arrays = dict[str, np.ndarray]
"""Path of a leaf in the TrainState -> its values; a key is its data."""


class CheckpointError(ValueError):
    """A checkpoint that can't be used; its text is one line."""


def _raw(leaf: Any) -> Any:
    """A leaf, or the data of a key."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def to_host(state: Any) -> Arrays:
    """Copies of all leaves that hold something: the device's own may be written over from then on."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.tree.map(_raw, state))[0]
    return {jax.tree_util.keystr(path): hosts.whole(leaf) for path, leaf in leaves if leaf.size}


def to_device(arrays: Arrays, shapes: Any, shardings: Any) -> Any:
    """The state that ``arrays`` hold, laid as ``shardings`` say.

    Raises:
        CheckpointError: they are not of ``shapes``.
    """
    named = jax.tree_util.tree_flatten_with_path(shapes)[0]
    arrays = _in_form_of({jax.tree_util.keystr(path): shape.shape for path, shape in named}, arrays)

    def leaf(path: Any, shape: Any, sharding: Any) -> Any:
        name = jax.tree_util.keystr(path)
        raw = jax.eval_shape(_raw, shape)
        value = arrays.get(name) if raw.size else np.zeros(raw.shape, raw.dtype)
        if value is None or value.shape != raw.shape or value.dtype != raw.dtype:
            held = "none" if value is None else f"{value.dtype} {list(value.shape)}"
            raise CheckpointError(f"{name} is {held} and should be {raw.dtype} {list(raw.shape)}")
        if raw is not shape and jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return hosts.lay(jax.random.wrap_key_data(jnp.asarray(value)), sharding)
        return hosts.lay(value, sharding)

    return jax.tree_util.tree_map_with_path(leaf, shapes, shardings)


def _in_form_of(shapes: Mapping[str, tuple[int, ...]], arrays: Arrays) -> Arrays:
    """Return ``arrays`` with each network's parameters in the form of ``shapes``: packed or as a tree.

    Accelerators keep them as one array (``packing.py``), CPUs as a tree, and a run may move between them.
    """
    found = dict(arrays)
    for name, shape in shapes.items():
        apart = sorted(other for other in arrays if other.startswith(f"{name}["))
        together = next((other for other in arrays if name.startswith(f"{other}[")), None)
        if apart:
            members = len(shape) - 1
            rows = [arrays[part].reshape(*arrays[part].shape[:members], -1) for part in apart]
            found[name] = np.concatenate(rows, axis=-1)
        elif together is not None:
            members = arrays[together].ndim - 1
            sizes = {n: math.prod(s[members:]) for n, s in shapes.items() if n.startswith(f"{together}[")}
            begin = sum(size for other, size in sizes.items() if other < name)
            part = arrays[together][..., begin : begin + sizes[name]]
            found[name] = part.reshape(shape) if part.size == math.prod(shape) else part
    return found


class Checkpoints:
    """The checkpoints of one run: of those that are whole the newest ``keep`` are kept.

    Args:
        start: the one that the run goes on from. What is newer and not from here could not be used.
    """

    def __init__(self, out: Path, keep: int, start: Path | None = None) -> None:
        self._folder = out / FOLDER
        self._keep = keep
        self._start = int(start.name) if start else 0
        self._whole = {start} if start else set()
        """Those that need not be looked at again."""
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, state: Any, host: Mapping[str, Any], files: list[Path], with_replay: bool) -> int:
        """Copy ``state`` and write it in the background, after what is still being written.

        Every host must ask; the first one writes.

        Args:
            host: what else is to be known; holds ``env_steps``.
            files: in the run's folder; copied as they are now, those that exist.
        Returns:
            the bytes copied.
        """
        self.wait()
        arrays = to_host(state)
        if not hosts.first():
            return 0
        if not with_replay:
            del arrays[REPLAY]
        out = self._folder.parent
        contents = {str(path.relative_to(out)): path.read_bytes() for path in files if path.exists()}
        self._thread = threading.Thread(target=self._write, args=(arrays, dict(host), contents))
        self._thread.start()
        return sum(array.nbytes for array in arrays.values())

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def failure(self) -> Exception | None:
        """Why the last save failed, told once; None while it is being written."""
        if self._thread is not None and self._thread.is_alive():
            return None
        error, self._error = self._error, None
        return error

    def prune(self, keep: int) -> None:
        """Remove all but the newest ``keep`` that are whole."""
        kept = 0
        for path in saved(self._folder.parent):
            if kept < keep and self._is_whole(path):
                kept += 1
            else:
                shutil.rmtree(path, ignore_errors=True)

    def _is_whole(self, path: Path) -> bool:
        if path not in self._whole and int(path.name) < self._start:
            with contextlib.suppress(CheckpointError):
                check(path)
                self._whole.add(path)
        return path in self._whole

    def _write(self, arrays: Arrays, host: dict[str, Any], contents: dict[str, bytes]) -> None:
        partial = self._folder / f".{host['env_steps']}.{os.getpid()}.tmp"
        try:
            clear(self._folder)
            partial.mkdir(parents=True)
            needed = sum(array.nbytes for array in arrays.values())
            if shutil.disk_usage(partial).free < needed:
                raise OSError(errno.ENOSPC, f"less than {needed / 1e6:,.0f} MB are free in {self._folder}")
            _orbax().save((partial / "state").absolute(), arrays)
            (partial / "files").mkdir()
            for name, content in contents.items():
                (partial / "files" / name).parent.mkdir(exist_ok=True)
                (partial / "files" / name).write_bytes(content)
            (partial / "host.json").write_text(json.dumps(host | {"format": FORMAT}))
            (partial / "checksums.json").write_text(json.dumps(checksums(partial)))
            _to_disk(partial)
            final = self._folder / str(host["env_steps"])
            if final.exists():  # of a run that went on from here
                shutil.rmtree(final)
            partial.rename(final)
            self._whole.add(final)
            self.prune(self._keep)
        except Exception as error:  # a full disk has many names: OSError, orbax's and tensorstore's own
            self._error = error
            shutil.rmtree(partial, ignore_errors=True)


def _orbax() -> Any:
    """Orbax's own writer and reader of trees, without its chatter."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # errors reach us as exceptions
    own = jax.process_index()  # other hosts are not waited for
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"host{own}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def clear(folder: Path) -> None:
    """Remove what a process that was killed left half-written."""
    for partial in folder.glob(".*.tmp"):
        shutil.rmtree(partial, ignore_errors=True)


def _to_disk(folder: Path) -> None:
    """Wait until all of ``folder`` is on the disk: a power cut after its renaming would leave empty files."""
    for path in [folder, *folder.rglob("*")]:
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in ``folder``, but for the list of them."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / "checksums.json":
            with path.open("rb") as file:
                sums[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def saved(out: Path) -> list[Path]:
    """The folders of a run's checkpoints, newest first, whole or not."""
    folders = (out / FOLDER).glob("[0-9]*") if (out / FOLDER).is_dir() else ()
    return sorted((f for f in folders if f.name.isdigit()), key=lambda f: -int(f.name))


def check(folder: Path) -> dict[str, Any]:
    """What the host knew, of a checkpoint whose files are as they were written.

    Raises:
        CheckpointError: not whole, changed since it was written, or of another format.
    """
    try:
        listed = json.loads((folder / "checksums.json").read_text())
        if listed != checksums(folder):
            raise CheckpointError(f"{folder}: not whole, or changed since it was written")
        host: dict[str, Any] = json.loads((folder / "host.json").read_text())
        if host["format"] != FORMAT:
            raise CheckpointError(f"{folder}: format {host['format']}, this version reads {FORMAT}")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unreadable(folder, error) from None
    return host


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return CheckpointError(f"{folder}: not readable ({why})")


def load(folder: Path) -> tuple[Arrays, dict[str, Any], dict[str, bytes]]:
    """Arrays, what the host knew, and the run's files. Nothing from the folder is executed.

    Raises:
        CheckpointError: not whole, changed since it was written, or of another format.
    """
    host = check(folder)
    try:
        arrays = _orbax().restore((folder / "state").absolute(), restore_args=_as_numpy(folder))
        files = folder / "files"
        contents = {str(p.relative_to(files)): p.read_bytes() for p in files.rglob("*") if p.is_file()}
    except Exception as error:  # whatever a damaged file makes orbax and tensorstore raise
        raise _unreadable(folder, error) from None
    return arrays, host, contents


def _as_numpy(folder: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    names = _orbax().metadata((folder / "state").absolute()).item_metadata.tree
    return {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
