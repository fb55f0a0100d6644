"""Several hosts that train one run, with one process on each; JAX connects the processes.

The devices of all hosts form one mesh, and each host runs the same program on its own devices. Only the first
host writes files, prints lines and logs to W&B. Decisions that depend on a clock or a signal are shared.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from td3_brax.option import ConfigError

HEARTBEAT_S = 30
"""Seconds of silence after which a host counts as lost, if its connection did not break before.

JAX then ends the other hosts.
"""
GATHER_BYTES = 64_000_000
"""Bytes that a device receives from the other devices at a time."""


class HostLostError(RuntimeError):
    """Raised if the run can't continue with the other hosts; the message is one line."""


def expected_processes(all_devices: bool = True) -> int:
    """Return how many processes train this run; 2 also stands for a larger number that JAX finds out.

    JAX's own variables and a TPU pod say that processes belong to one run. A launcher (SLURM, Open MPI,
    Kubernetes) may also start processes that each train a run of their own, so it needs ``all_devices``.

    Args:
        all_devices: whether the user has set ``--devices all``.
    Raises:
        ConfigError: a variable of the environment is not a number.
    """
    if "JAX_NUM_PROCESSES" in os.environ:
        return _number("JAX_NUM_PROCESSES")
    if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        return 2
    return launched_processes() if all_devices else 1


def launched_processes() -> int:
    """Return how many processes a launcher has started; 2 also stands for a larger number."""
    sizes = ["OMPI_COMM_WORLD_SIZE"]
    if "SLURM_STEP_NODELIST" in os.environ:  # without it this is a batch script, which runs once
        sizes.append("SLURM_NTASKS")
    for name in sizes:
        if name in os.environ:
            return _number(name)
    pod = "JOB_COMPLETION_INDEX" in os.environ and importlib.util.find_spec("kubernetes") is not None
    return 2 if pod else 1


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise ConfigError("devices", "all", f"the environment variable {name}={value} must be a whole number")
    return int(value)


def join() -> None:
    """Join the other hosts, before JAX starts; waits for them for up to five minutes.

    Raises:
        ConfigError: the hosts can't be joined.
    """
    import jax

    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # the service would handle SIGTERM itself
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    numbers: dict[str, Any] = {}
    if "JAX_NUM_PROCESSES" in os.environ:
        numbers = {"num_processes": _number("JAX_NUM_PROCESSES"), "process_id": _number("JAX_PROCESS_ID")}
    try:
        jax.distributed.initialize(**numbers, heartbeat_timeout_seconds=HEARTBEAT_S)
    except (RuntimeError, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            "devices",
            "all",
            f"the hosts can't be joined ({why}); without --devices=all each host trains its own run",
        ) from None
    nodes = os.environ.get("SLURM_STEP_NUM_NODES")
    if nodes is not None and nodes == os.environ.get("SLURM_NTASKS"):
        # The process is alone on its node, so it takes all GPUs there; JAX would give it one.
        jax.config.update("jax_cuda_visible_devices", "all")


def leave() -> None:
    """Disconnect from the other hosts, once all have ended."""
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def exit_at_once(text: str, code: int) -> None:
    """Print ``text`` and exit without waiting for the other hosts; do nothing if there are none."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if is_first():
        time.sleep(1)  # when the first host is gone, JAX ends the others before they can say why
    os._exit(code)


def count() -> int:
    """Return the number of hosts."""
    import jax

    return jax.process_count()


def is_first() -> bool:
    """Return whether this is the first host, the one that writes."""
    import jax

    return jax.process_index() == 0


def max_over_hosts(*values: int) -> list[int]:
    """Return the maximum over all hosts of each of ``values``. All hosts must call this together."""
    if count() == 1:
        return list(values)
    return [max(column) for column in zip(*_allgather(list(values)), strict=True)]


def check_same_on_all(value: object) -> None:
    """Check that all hosts have the same ``value``, so that they train the same run.

    Raises:
        ConfigError: the hosts differ; raised on every host.
    """
    if count() > 1 and len({row[0] for row in _allgather([zlib.crc32(repr(value).encode())])}) > 1:
        raise ConfigError(
            "devices",
            "all",
            "the hosts differ in options, versions or checkpoints; start the same command on all hosts, with "
            "--out on a shared file system (without --devices=all each host trains its own run)",
        )


def _allgather(values: list[int]) -> list[list[int]]:
    """Return the ``values`` of every host."""
    import numpy as np
    from jax.experimental import multihost_utils

    with detecting_lost_hosts():
        rows: list[list[int]] = multihost_utils.process_allgather(np.array(values, np.uint32)).tolist()
    return rows


@contextlib.contextmanager
def detecting_lost_hosts() -> Iterator[None]:
    """Wrap code that reads a result which all hosts computed together.

    Raises:
        JaxRuntimeError: a host was lost; also where NumPy reports that as a ValueError.
    """
    import jax

    try:
        yield
    except ValueError as error:
        raise jax.errors.JaxRuntimeError(str(error)) from error


def shard(value: Any, sharding: Any) -> Any:
    """Distribute ``value``, an array or random keys that every host has in full, as ``sharding`` says."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if count() == 1:
        return jax.device_put(value, sharding)
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    raw = np.asarray(jax.random.key_data(value) if is_key else value)
    placed = jax.make_array_from_callback(raw.shape, sharding, lambda index: raw[index])
    return jax.random.wrap_key_data(placed) if is_key else placed


def gather(array: Any) -> Any:
    """Return a whole array as a NumPy array, copied piece by piece.

    If other hosts hold parts of it, all hosts must call this together.
    """
    import numpy as np

    if array.is_fully_replicated:
        return np.array(array.addressable_data(0))
    out = np.empty(array.shape, array.dtype)
    if array.is_fully_addressable:
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                out[shard.index] = shard.data
        return out
    axis = next(i for i, name in enumerate(array.sharding.spec) if name is not None)
    parts = array.sharding.mesh.size
    size = array.shape[axis] // parts
    length = max(1, min(size, GATHER_BYTES * size // array.nbytes))
    piece = _pieces(array.sharding, axis, length)
    for place in range(0, size, length):
        begin = min(place, size - length)
        with detecting_lost_hosts():
            gathered = np.asarray(piece(array, np.int32(begin)).addressable_data(0))
        for i, part in enumerate(gathered):
            at = i * size + begin
            out[(slice(None),) * axis + (slice(at, at + length),)] = part
    return out


@functools.cache
def _pieces(sharding: Any, axis: int, length: int) -> Callable[..., Any]:
    """Compile ``(array, begin) -> [devices, ...]``: ``length`` rows from ``begin`` of each device's part.

    Every device gets the rows of all devices.
    """
    import jax
    from jax.sharding import PartitionSpec

    def piece(local: jax.Array, begin: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(local, begin, length, axis)
        return jax.lax.all_gather(part, sharding.mesh.axis_names)

    specs: Any = (sharding.spec, PartitionSpec())
    return jax.jit(
        jax.shard_map(piece, mesh=sharding.mesh, in_specs=specs, out_specs=specs[1], check_vma=False)
    )
