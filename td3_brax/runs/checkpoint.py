"""Checkpoints: the exact state of a run on disk, written atomically in the background and checked when read.

RUN/checkpoints/<env_steps>/
    state/          every array of the TrainState, by orbax
    files/          copies of the run's policies
    host.json       the host's part: counters, best evaluation, position in metrics.jsonl
    checksums.json  SHA-256 of all other files, written last
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
from collections.abc import Callable, Mapping
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
"""Maps the path of a leaf in the TrainState to its values; for a random key, to the key's data."""


class CheckpointError(ValueError):
    """Raised for a checkpoint that can't be used; the message is one line."""


def _unwrap_key(leaf: Any) -> Any:
    """Return a leaf; of a random key, its data."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def to_host(state: Any) -> Arrays:
    """Copy all leaves that are not empty to the host, so that the device may overwrite its arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.tree.map(_unwrap_key, state))[0]
    return {jax.tree_util.keystr(path): hosts.gather(leaf) for path, leaf in leaves if leaf.size}


def to_device(arrays: Arrays, shapes: Any, shardings: Any) -> Any:
    """Make the state from ``arrays``, distributed over the devices as ``shardings`` say.

    Raises:
        CheckpointError: an array is missing, or differs from ``shapes`` in its shape or type.
    """
    named = jax.tree_util.tree_flatten_with_path(shapes)[0]
    arrays = match_packing({jax.tree_util.keystr(path): shape.shape for path, shape in named}, arrays)

    def leaf(path: Any, shape: Any, sharding: Any) -> Any:
        name = jax.tree_util.keystr(path)
        raw = jax.eval_shape(_unwrap_key, shape)
        value = arrays.get(name) if raw.size else np.zeros(raw.shape, raw.dtype)
        if value is None or value.shape != raw.shape or value.dtype != raw.dtype:
            found = "missing" if value is None else f"{value.dtype} {list(value.shape)}"
            raise CheckpointError(f"{name} is {found}, but should be {raw.dtype} {list(raw.shape)}")
        if raw is not shape and jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return hosts.shard(jax.random.wrap_key_data(jnp.asarray(value)), sharding)
        return hosts.shard(value, sharding)

    return jax.tree_util.tree_map_with_path(leaf, shapes, shardings)


def match_packing(shapes: Mapping[str, tuple[int, ...]], arrays: Arrays) -> Arrays:
    """Return ``arrays`` with each network's parameters in the form of ``shapes``: packed or as a tree.

    Accelerators keep the parameters as one array (``packing.py``), CPUs as a tree. A run may move between
    the two.
    """
    found = dict(arrays)
    for name, shape in shapes.items():
        separate = sorted(other for other in arrays if other.startswith(f"{name}["))
        packed = next((other for other in arrays if name.startswith(f"{other}[")), None)
        if separate:
            members = len(shape) - 1
            rows = [arrays[part].reshape(*arrays[part].shape[:members], -1) for part in separate]
            found[name] = np.concatenate(rows, axis=-1)
        elif packed is not None:
            members = arrays[packed].ndim - 1
            sizes = {n: math.prod(s[members:]) for n, s in shapes.items() if n.startswith(f"{packed}[")}
            begin = sum(size for other, size in sizes.items() if other < name)
            part = arrays[packed][..., begin : begin + sizes[name]]
            found[name] = part.reshape(shape) if part.size == math.prod(shape) else part
    return found


class Checkpoints:
    """The checkpoints of one run. The newest ``keep`` complete ones are kept.

    Args:
        start: the checkpoint that the run resumes from, the newest usable one. Any newer one on disk is
            damaged, and is not counted.
    """

    def __init__(self, out: Path, keep: int, start: Path | None = None) -> None:
        self._folder = out / FOLDER
        self._keep = keep
        self._start = int(start.name) if start else 0
        self._complete = {start} if start else set()
        """Checkpoints known to be complete."""
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, state: Any, host: Mapping[str, Any], files: list[Path], with_replay: bool) -> int:
        """Copy ``state`` and write it in the background. Waits first for a save that is being written.

        All hosts must call this together; only the first host writes.

        Args:
            host: further values for ``host.json``, among them ``env_steps``.
            files: files in the run's folder; those that exist are copied as they are now.
        Returns:
            the number of bytes copied.
        """
        self.wait()
        arrays = to_host(state)
        if not hosts.is_first():
            return 0
        if not with_replay:
            del arrays[REPLAY]
        out = self._folder.parent
        contents = {str(path.relative_to(out)): path.read_bytes() for path in files if path.exists()}
        self._thread = threading.Thread(target=self._write, args=(arrays, dict(host), contents))
        self._thread.start()
        return sum(array.nbytes for array in arrays.values())

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def failure(self) -> Exception | None:
        """Return the error of the last save, once; None if it succeeded or is still being written."""
        if self._thread is not None and self._thread.is_alive():
            return None
        error, self._error = self._error, None
        return error

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the newest ``keep`` complete ones."""
        kept = 0
        for path in saved(self._folder.parent):
            if kept < keep and self._is_complete(path):
                kept += 1
            else:
                shutil.rmtree(path, ignore_errors=True)

    def _is_complete(self, path: Path) -> bool:
        if path not in self._complete and int(path.name) < self._start:
            with contextlib.suppress(CheckpointError):
                check(path)
                self._complete.add(path)
        return path in self._complete

    def _write(self, arrays: Arrays, host: dict[str, Any], contents: dict[str, bytes]) -> None:
        partial = self._folder / f".{host['env_steps']}.{os.getpid()}.tmp"
        try:
            remove_partial(self._folder)
            partial.mkdir(parents=True)
            needed = sum(array.nbytes for array in arrays.values())
            if shutil.disk_usage(partial).free < needed:
                raise OSError(
                    errno.ENOSPC, f"less than {needed / 1e6:,.0f} MB of disk space are free in {self._folder}"
                )
            _orbax().save((partial / "state").absolute(), arrays)
            (partial / "files").mkdir()
            for name, content in contents.items():
                (partial / "files" / name).parent.mkdir(exist_ok=True)
                (partial / "files" / name).write_bytes(content)
            (partial / "host.json").write_text(json.dumps(host | {"format": FORMAT}))
            (partial / "checksums.json").write_text(json.dumps(checksums(partial)))
            _flush_to_disk(partial)
            final = self._folder / str(host["env_steps"])
            if final.exists():  # an earlier process had reached this step too
                shutil.rmtree(final)
            partial.rename(final)
            self._complete.add(final)
            self.prune(self._keep)
        except Exception as error:  # a full disk raises OSError, or errors of orbax or tensorstore
            self._error = error
            shutil.rmtree(partial, ignore_errors=True)


def _orbax() -> Any:
    """Return orbax's writer and reader of trees, with its logging turned off."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # errors are raised as exceptions too
    index = jax.process_index()  # do not wait for other hosts
    this_host = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"host{index}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=this_host)
    return ocp.Checkpointer(handler, multiprocessing_options=this_host)


def remove_partial(folder: Path) -> None:
    """Remove partial checkpoints, which a killed process leaves behind."""
    for partial in folder.glob(".*.tmp"):
        shutil.rmtree(partial, ignore_errors=True)


def _flush_to_disk(folder: Path) -> None:
    """Flush all of ``folder`` to disk; otherwise a power cut after the rename could leave empty files."""
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in ``folder`` except ``checksums.json`` itself."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / "checksums.json":
            with path.open("rb") as file:
                sums[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def saved(out: Path) -> list[Path]:
    """List the folders of a run's checkpoints, newest first, including damaged ones."""
    folders = (out / FOLDER).glob("[0-9]*") if (out / FOLDER).is_dir() else ()
    return sorted((f for f in folders if f.name.isdigit()), key=lambda f: -int(f.name))


def check(folder: Path) -> dict[str, Any]:
    """Return ``host.json`` of a checkpoint after comparing all files with their checksums.

    Raises:
        CheckpointError: the checkpoint is incomplete, was changed, or has another format.
    """
    try:
        listed = json.loads((folder / "checksums.json").read_text())
        if listed != checksums(folder):
            raise CheckpointError(f"{folder} is incomplete, or was changed after it was written")
        host: dict[str, Any] = json.loads((folder / "host.json").read_text())
        if host["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} has format {host['format']}; this version of td3-brax reads format {FORMAT}"
            )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unreadable(folder, error) from None
    return host


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return CheckpointError(f"{folder} can't be read ({why})")


def load(
    folder: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[Arrays, dict[str, Any], dict[str, bytes]]:
    """Return a checkpoint's arrays, its ``host.json`` and copies of the run's files.

    Nothing from the folder is executed.

    Args:
        wanted: whether to read the array of this name; the others are not returned.
    Raises:
        CheckpointError: the checkpoint is incomplete, was changed, or has another format.
    """
    host = check(folder)
    try:
        arrays = _read((folder / "state").absolute(), wanted)
        files = folder / "files"
        contents = {str(p.relative_to(files)): p.read_bytes() for p in files.rglob("*") if p.is_file()}
    except Exception as error:  # a damaged file makes orbax and tensorstore raise many types
        raise _unreadable(folder, error) from None
    return arrays, host, contents


def _read(state: Path, wanted: Callable[[str], bool]) -> Arrays:
    import orbax.checkpoint as ocp

    names = list(filter(wanted, _orbax().metadata(state).item_metadata.tree))
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    # An empty mapping of transformations lets orbax leave out what is not in ``item``.
    read: Arrays = _orbax().restore(state, item=dict.fromkeys(names, 0), restore_args=as_numpy, transforms={})
    return read
