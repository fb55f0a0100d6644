"""Several hosts that train one run: a process on each, which JAX finds and joins.

Their devices form one mesh, and each runs the same program on its own. Files, lines and W&B are the first
host's; what the clock or a signal says to one, all are told.
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
"""A host that says nothing for so long is lost, where no connection breaks before; JAX ends the others."""
PIECE = 64_000_000
"""Bytes that a device takes at a time of what others hold."""


class HostLostError(RuntimeError):
    """The run can't go on with the other hosts; its text is one line."""


def named(asked: bool = True) -> int:
    """How many processes are to train one run with this one; 2 for several whose number JAX asks for.

    A launcher (SLURM, Open MPI, Kubernetes) that says how many it has started does not say that they belong
    together: it starts as many runs of their own. JAX's own variables and a TPU pod do.

    Args:
        asked: whether somebody has, by ``--devices all``.
    Raises:
        ConfigError: the environment has something else than a number.
    """
    if "JAX_NUM_PROCESSES" in os.environ:
        return _number("JAX_NUM_PROCESSES")
    if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        return 2
    return launched() if asked else 1


def launched() -> int:
    """How many processes a launcher says that it has started, as :func:`named` says them."""
    sizes = ["OMPI_COMM_WORLD_SIZE"]
    if "SLURM_STEP_NODELIST" in os.environ:  # otherwise a batch script, which runs once
        sizes.append("SLURM_NTASKS")
    for name in sizes:
        if name in os.environ:
            return _number(name)
    pod = "JOB_COMPLETION_INDEX" in os.environ and importlib.util.find_spec("kubernetes") is not None
    return 2 if pod else 1


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise ConfigError("devices", "all", f"{name}={value} in the environment must be a whole number")
    return int(value)


def join() -> None:
    """Meet the others, before JAX starts; waits for them for five minutes.

    Raises:
        ConfigError: they can't be met.
    """
    import jax

    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    own: dict[str, Any] = {}
    if "JAX_NUM_PROCESSES" in os.environ:
        own = {"num_processes": _number("JAX_NUM_PROCESSES"), "process_id": _number("JAX_PROCESS_ID")}
    try:
        jax.distributed.initialize(**own, heartbeat_timeout_seconds=HEARTBEAT_S)
    except (RuntimeError, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            "devices", "all", f"the hosts can't be joined ({why}); without it, each trains a run of its own"
        ) from None
    nodes = os.environ.get("SLURM_STEP_NUM_NODES")
    if nodes is not None and nodes == os.environ.get("SLURM_NTASKS"):
        # A process that has a node to itself takes all of its GPUs, of which JAX would give it one.
        jax.config.update("jax_cuda_visible_devices", "all")


def leave() -> None:
    """Part, once all have ended."""
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def abandon(text: str, code: int) -> None:
    """End at once with ``text``, where there are others, for whom nobody is to wait; alone, do nothing."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if first():
        time.sleep(1)  # without the first, JAX ends the others before they can say why
    os._exit(code)


def count() -> int:
    """How many there are."""
    import jax

    return jax.process_count()


def first() -> bool:
    """Whether this is the one that writes."""
    import jax

    return jax.process_index() == 0


def most(*values: int) -> list[int]:
    """Each of ``values`` as the host has it where it is largest: all must ask."""
    if count() == 1:
        return list(values)
    return [max(column) for column in zip(*_all(list(values)), strict=True)]


def check_same_on_all(what: object) -> None:
    """All must be about to train the same.

    Raises:
        ConfigError: on every host, where they are not.
    """
    if count() > 1 and len({row[0] for row in _all([zlib.crc32(repr(what).encode())])}) > 1:
        raise ConfigError(
            "devices",
            "all",
            "the hosts differ in options, versions or checkpoints; a run needs the same command on each and "
            "a file system that they share (without --devices=all each trains a run of its own)",
        )


def _all(values: list[int]) -> list[list[int]]:
    """The values of every host."""
    import numpy as np
    from jax.experimental import multihost_utils

    with detecting_lost_hosts():
        rows: list[list[int]] = multihost_utils.process_allgather(np.array(values, np.uint32)).tolist()
    return rows


@contextlib.contextmanager
def detecting_lost_hosts() -> Iterator[None]:
    """Around reading what the hosts have made together.

    Raises:
        JaxRuntimeError: another is lost, also where NumPy takes that for a wrong value.
    """
    import jax

    try:
        yield
    except ValueError as error:
        raise jax.errors.JaxRuntimeError(str(error)) from error


def lay(value: Any, sharding: Any) -> Any:
    """An array, or keys, that every host has in full, as ``sharding`` says; each keeps its devices' part."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if count() == 1:
        return jax.device_put(value, sharding)
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    raw = np.asarray(jax.random.key_data(value) if is_key else value)
    laid = jax.make_array_from_callback(raw.shape, sharding, lambda index: raw[index])
    return jax.random.wrap_key_data(laid) if is_key else laid


def whole(array: Any) -> Any:
    """All of an array as NumPy's, a device's part at a time; where others hold some, all must ask."""
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
    length = max(1, min(size, PIECE * size // array.nbytes))
    piece = _pieces(array.sharding, axis, length)
    for place in range(0, size, length):
        begin = min(place, size - length)
        with detecting_lost_hosts():
            of_all = np.asarray(piece(array, np.int32(begin)).addressable_data(0))
        for i, part in enumerate(of_all):
            at = i * size + begin
            out[(slice(None),) * axis + (slice(at, at + length),)] = part
    return out


@functools.cache
def _pieces(sharding: Any, axis: int, length: int) -> Callable[..., Any]:
    """``(array, begin) -> [parts, ...]``: of each device's part the ``length`` from ``begin`` on, on all."""
    import jax
    from jax.sharding import PartitionSpec

    def piece(own: jax.Array, begin: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(own, begin, length, axis)
        return jax.lax.all_gather(part, sharding.mesh.axis_names)

    specs: Any = (sharding.spec, PartitionSpec())
    return jax.jit(
        jax.shard_map(piece, mesh=sharding.mesh, in_specs=specs, out_specs=specs[1], check_vma=False)
    )
