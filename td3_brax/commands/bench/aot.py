"""Compile GPU programs without a GPU, for an H100 on any machine, and count what they do.

The counts say how many operations a call starts on the device, whether it needs the host in between, which
buffers are updated in place, and how much memory it takes. They don't say how long it takes. Needs the extra
``aot``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

import jax
from jax.experimental import topologies

from td3_brax.algorithm import shards
from td3_brax.commands.bench.hlo import Operation, walk

PACKAGES = ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc")
SCOPES = ("refill", "collect", "learn")
"""Named scopes in ``algorithm/loop.py``."""

# Autotuning would run candidates on the device. Everything else is compiled as on the real machine.
OPTIONS = {"xla_gpu_autotune_level": 0}


class AotError(RuntimeError):
    """Raised when a program can't be compiled for the target. The message is one line."""


def compile_for(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    donate_argnums: int | Sequence[int] = (),
    target: str = "h100",
    options: Mapping[str, Any] | None = None,
    devices: int = 1,
    in_specs: Any = shards.REPLICATED,
    out_specs: Any = shards.REPLICATED,
) -> jax.stages.Compiled:
    """Compile ``jax.jit(fn)`` for ``target``, which need not be present.

    Args:
        args: positional arguments, pytrees of arrays or ``jax.ShapeDtypeStruct``; only shapes are used.
        target: ``h100``, or another description in ``td3_brax/data``.
        options: compiler options of XLA, such as ``{"xla_gpu_deterministic_ops": True}``.
        devices: number of devices; with several, ``fn`` is the program of one shard, and the specs are those
            of ``shard_map``.

    Raises:
        AotError: the extra is missing, JAX has started without it, or ``fn`` calls the host.
    """
    donated = donate_argnums if isinstance(donate_argnums, Sequence) else (donate_argnums,)
    described = _devices(target, devices)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tuple(args))
    traced = shards.jit(fn, devices, in_specs, out_specs, tuple(donated), described).trace(*shapes)
    calls = sorted(set(_host_primitives(traced.jaxpr.jaxpr, set())))
    if calls:  # without a GPU these can't be lowered, and JAX's error would not say so
        raise AotError(f"the program calls the host: {', '.join(calls)}")
    # JAX's cache can store an executable for an absent device, but can't load it.
    threshold = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, threshold)
    jax.config.update(threshold, math.inf)
    try:
        with jax.default_device(described[0]):  # Pallas reads the kind of GPU from here, from JAX 0.12 on
            lowered = traced.lower()
        return lowered.compile(compiler_options=OPTIONS | dict(options or {}))
    finally:
        jax.config.update(threshold, before)


def _devices(target: str, count: int) -> Sequence[Any]:
    """Return ``count`` devices of the described kind, in one machine."""
    data = resources.files("td3_brax") / "data"
    path = data / f"{target}.txtpb"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".txtpb") for p in data.iterdir() if p.name.endswith(".txtpb"))
        raise AotError(f"unknown target {target}: must be one of {', '.join(known)}")
    jaxlib = metadata.version("jaxlib")
    for package in PACKAGES:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise AotError(
                f"compiling for a GPU needs {package}, which is not installed: pip install 'td3-brax[aot]'"
            ) from None
        # JAX itself only warns, and fails later with an error about a handler that is not registered.
        if package.startswith("jax") and version != jaxlib:
            raise AotError(f"{package} {version} does not match jaxlib {jaxlib}: pip install 'td3-brax[aot]'")
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology=f"1x1x{count}", target_config=path.read_text()
        )
    except NotImplementedError:
        # The plugin found no GPU when JAX started, and unregistered itself.
        raise AotError(
            "JAX has started without its CUDA plugin; set JAX_PLATFORMS=cpu before JAX is first used"
        ) from None
    devices: Sequence[Any] = topology.devices
    return devices


def _host_primitives(jaxpr: Any, seen: set[int]) -> Iterator[str]:
    """Yield the names of the primitives in ``jaxpr`` that run Python or communicate with the host."""
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if "callback" in name or name in ("debug_print", "infeed", "outfeed"):
            yield name
        for value in eqn.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _host_primitives(inner, seen)


@dataclass(frozen=True)
class Counts:
    """Counts of what one call of a compiled program does."""

    details: tuple[Operation, ...]
    """Every operation on the device (fusions, library calls, copies), each with how often it runs."""
    host: tuple[str, ...]
    """Operations that need the host: callbacks, infeed, outfeed, send, recv, host memory."""
    unknown_loops: tuple[str, ...]
    """Loops whose trip count the compiler does not know; their bodies count once."""
    conditionals: tuple[str, ...]
    """Conditionals; all their branches count."""
    custom_calls: Mapping[str, int]
    """Library calls per call of the program, by target."""
    argument_bytes: int
    """Bytes of the arguments."""
    alias_bytes: int
    """Bytes of the arguments whose buffers the outputs take over (donated)."""
    temp_bytes: int
    """Bytes of workspace, in addition to arguments and outputs."""

    @property
    def operations(self) -> int:
        """Operations on the device per call."""
        return sum(operation.times for operation in self.details)

    @property
    def by_scope(self) -> Mapping[str, int]:
        """Operations per call by named scope; ``other`` for those outside all scopes."""
        return self._sums("scope")

    @property
    def by_kind(self) -> Mapping[str, int]:
        """Operations per call by kind."""
        return self._sums("kind")

    def large(self, least_bytes: int) -> tuple[Operation, ...]:
        """Return the operations that write at least ``least_bytes``, not counting slices written in place."""
        return tuple(operation for operation in self.details if operation.bytes >= least_bytes)

    def _sums(self, attribute: str) -> Mapping[str, int]:
        """Add up how often operations run, by the value of their attribute."""
        sums: Counter[str] = Counter()
        for operation in self.details:
            sums[getattr(operation, attribute)] += operation.times
        return dict(sums)


def count(compiled: jax.stages.Compiled) -> Counts:
    """Count what one call of ``compiled`` does, from its text; it may be a program for an absent device."""
    found = walk(compiled.as_text() or "", SCOPES)
    memory = compiled.memory_analysis()
    if memory is None:
        raise AotError("this version of JAX does not report the memory of a compiled program")
    return Counts(
        details=tuple(found.details),
        host=tuple(found.host),
        unknown_loops=tuple(found.unknown_loops),
        conditionals=tuple(found.conditionals),
        custom_calls=dict(found.custom_calls),
        argument_bytes=memory.argument_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
    )
