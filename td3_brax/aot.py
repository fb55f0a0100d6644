"""GPU programs without a GPU: compile for an H100 on any machine, and count what was compiled.

What this can tell: how many operations a call starts on the device, whether the host is needed in
between, which buffers are updated in place, how much memory it takes. What it can't tell is time.
Needs the extra ``aot``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

PACKAGES = ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc")
SCOPES = ("refill", "collect", "learn")
"""The named scopes of ``loop.py``."""
OTHER = "other"

# Autotuning would run candidates on the device; everything else is compiled as on the real machine.
OPTIONS = {"xla_gpu_autotune_level": 0}


class AotError(RuntimeError):
    """The program can't be compiled for the target. Its text is one line."""


def compile_for(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    donate_argnums: int | Sequence[int] = (),
    target: str = "h100",
    options: Mapping[str, Any] | None = None,
) -> jax.stages.Compiled:
    """``jax.jit(fn)`` compiled for ``target``, which need not be there.

    Args:
        args: positional arguments, pytrees of arrays or ``jax.ShapeDtypeStruct``; only shapes are used.
        target: ``h100``, or another description in ``td3_brax/data``.
        options: XLA's, such as ``{"xla_gpu_deterministic_ops": True}``.

    Raises:
        AotError: the extra is missing, JAX was started in a way that hides it, or ``fn`` calls Python.
    """
    sharding = SingleDeviceSharding(_device(target))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tuple(args))
    traced = jax.jit(fn, donate_argnums=donate_argnums).trace(*shapes)
    calls = sorted(set(_host_primitives(traced.jaxpr.jaxpr, set())))
    if calls:  # without a GPU these can't be lowered; the error of jax would not say so
        raise AotError(f"the program calls the host: {', '.join(calls)}")
    # An executable for an absent device can be written to JAX's cache, but never read back.
    threshold = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, threshold)
    jax.config.update(threshold, math.inf)
    try:
        return traced.lower().compile(compiler_options=OPTIONS | dict(options or {}))
    finally:
        jax.config.update(threshold, before)


def _device(target: str) -> Any:
    """The described device."""
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
                f"compiling for a GPU needs {package}, which is not installed: pip install td3-brax[aot]"
            ) from None
        # JAX itself only warns, and fails later with an error about a handler that is not registered.
        if package.startswith("jax") and version != jaxlib:
            raise AotError(
                f"{package} {version} is not of jaxlib's version, {jaxlib}: pip install td3-brax[aot]"
            )
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology="1x1x1", target_config=path.read_text()
        )
    except NotImplementedError:
        # The plugin has looked for a GPU, and withdrawn where there is none.
        raise AotError(
            "JAX has started without its CUDA plugin: set JAX_PLATFORMS=cpu before JAX is first used"
        ) from None
    return topology.devices[0]


def _host_primitives(jaxpr: Any, seen: set[int]) -> Iterator[str]:
    """Names of the primitives in ``jaxpr`` that run Python or talk to the host."""
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
class Operation:
    """One operation of the compiled program."""

    name: str
    """As in the compiled program's text."""
    kind: str
    """``fusion``, ``gemm``, ``sort``, ``scatter``, ``custom-call``, ``copy``, ..."""
    scope: str
    """The innermost named scope it stems from."""
    times: int
    """How often a call runs it."""
    bytes: int
    """What it writes each time; slices written in place into a larger buffer are not included."""


@dataclass(frozen=True)
class Counts:
    """What one call of a compiled program does."""

    details: tuple[Operation, ...]
    """Every operation on the device: fusions, library calls, copies, each with how often it runs."""
    host: tuple[str, ...]
    """Operations that need the host: callbacks, infeed, outfeed, send, recv, host memory."""
    unknown_loops: tuple[str, ...]
    """Loops whose trip count the compiler does not know; their bodies are counted once."""
    conditionals: tuple[str, ...]
    """Branches; all their sides are counted."""
    custom_calls: Mapping[str, int]
    """Library calls per call of the program, by target."""
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    """Bytes of the arguments whose buffers the outputs take over (donated)."""
    temp_bytes: int
    """Workspace beside arguments and outputs."""

    @property
    def operations(self) -> int:
        """Operations on the device per call."""
        return sum(operation.times for operation in self.details)

    @property
    def by_scope(self) -> Mapping[str, int]:
        """Operations per call by named scope; what has none is ``other``."""
        return self._sums("scope")

    @property
    def by_kind(self) -> Mapping[str, int]:
        """Operations per call by kind."""
        return self._sums("kind")

    def large(self, least_bytes: int) -> tuple[Operation, ...]:
        """The operations that write at least that much, other than a slice in place."""
        return tuple(operation for operation in self.details if operation.bytes >= least_bytes)

    def _sums(self, attribute: str) -> Mapping[str, int]:
        sums: Counter[str] = Counter()
        for operation in self.details:
            sums[getattr(operation, attribute)] += operation.times
        return dict(sums)


def count(compiled: jax.stages.Compiled, scopes: Sequence[str] = SCOPES) -> Counts:
    """What one call of ``compiled`` does, from its optimised text.

    An operation belongs to the innermost of ``scopes`` in its name, else to that of the loop around it.
    Asynchronous pairs count once; what is inside a fusion counts as that fusion.
    """
    walk = _Walk(_parse(compiled.as_text() or ""), scopes)
    walk.computation(walk.program.entry, 1, OTHER)
    memory = compiled.memory_analysis()
    return Counts(
        details=tuple(walk.details),
        host=tuple(walk.host),
        unknown_loops=tuple(walk.unknown_loops),
        conditionals=tuple(walk.conditionals),
        custom_calls=dict(walk.custom_calls),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
    )


@dataclass(frozen=True)
class _Op:
    """One line of HLO text."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.attributes)


@dataclass
class _Program:
    """HLO text by computation."""

    entry: str = ""
    computations: dict[str, dict[str, _Op]] = field(default_factory=dict)
    roots: dict[str, _Op] = field(default_factory=dict)


HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
COMMENT = re.compile(r"/\*.*?\*/")
CALLED = r"\b(?:calls|to_apply)=%?([\w.\-]+)"
BRANCHES = r"\b(?:true_computation|false_computation)=%?([\w.\-]+)"


def _close(text: str, start: int) -> int:
    """Index after the bracket that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "({[") - (text[i] in ")}]")
        if depth == 0:
            return i + 1
    raise ValueError(f"unbalanced: {text[start : start + 80]}")


def _parse(text: str) -> _Program:
    """The computations of an HLO module's text."""
    program = _Program()
    current = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = header[2]
            program.computations[current] = {}
            if header[1]:
                program.entry = current
        elif match := LINE.match(line):
            rest = COMMENT.sub("", line[match.end() :])
            end = _close(rest, 0) if rest[0] == "(" else rest.index(" ")
            opcode = OPCODE.match(rest, end)
            if opcode is None:
                raise ValueError(f"not an HLO instruction: {line[:120]}")
            after = _close(rest, opcode.end() - 1)
            operands = re.findall(r"%([\w.\-]+)", rest[opcode.end() : after])
            op = _Op(match[2], rest[:end], opcode[1], tuple(operands), rest[after:])
            program.computations[current][op.name] = op
            if match[1]:
                program.roots[current] = op
    return program


def _bytes(shape: str) -> int:
    """Bytes of all arrays in a shape."""
    total = 0
    for kind, bits, dims in ARRAY.findall(shape):
        size = math.prod(int(d) for d in dims.split(",") if d)
        total += size if kind == "pred" else -(-size * int(bits) // 8)
    return total


class _Walk:
    """Adds up what runs, from the entry down through loops and calls."""

    FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast")) | frozenset(
        ("after-all", "add-dependency", "opt-barrier", "partition-id", "replica-id")
    )
    HOST = frozenset(("infeed", "outfeed", "send", "recv"))
    IN_PLACE = frozenset(("dynamic-update-slice", "scatter"))

    def __init__(self, program: _Program, scopes: Sequence[str]) -> None:
        self.program = program
        names = "|".join(map(re.escape, scopes))
        self.scope_pattern = re.compile(rf'(?:[/("])({names})(?=[/)"])')
        self.details: list[Operation] = []
        self.host: list[str] = []
        self.unknown_loops: list[str] = []
        self.conditionals: list[str] = []
        self.custom_calls: Counter[str] = Counter()

    def computation(self, name: str, times: int, scope: str) -> None:
        """Add what ``name`` does, run ``times`` times."""
        ops = self.program.computations[name]
        for op in ops.values():
            self.operation(op, ops, times, scope)

    def operation(self, op: _Op, ops: dict[str, _Op], times: int, scope: str) -> None:
        """Add one line of a computation."""
        metadata = op.attribute(r'op_name=("(?:[^"\\]|\\.)*")')
        found = self.scope_pattern.findall(metadata[0]) if metadata else []
        scope = found[-1] if found else scope
        if op.opcode == "while":
            trips = op.attribute(r'"known_trip_count":\{"n":"(\d+)"')
            if not trips:
                self.unknown_loops.append(op.name)
            (body,) = op.attribute(r"\bbody=%?([\w.\-]+)")
            self.computation(body, times * int(trips[0] if trips else 1), scope)
        elif op.opcode == "conditional":
            self.conditionals.append(op.name)
            listed = op.attribute(r"branch_computations=\{([^}]*)\}")
            branches = re.findall(r"%?([\w.\-]+)", listed[0]) if listed else op.attribute(BRANCHES)
            for branch in branches:
                self.computation(branch, times, scope)
        elif op.opcode in ("call", "async-start"):
            for called in op.attribute(CALLED):
                self.computation(called, times, scope)
        elif op.opcode not in self.FREE and not op.opcode.endswith(("-done", "-update")):
            self.add(op, ops, times, scope)

    def add(self, op: _Op, ops: dict[str, _Op], times: int, scope: str) -> None:
        """Add one operation."""
        kind = op.opcode.removesuffix("-start")
        inner = {o.opcode for c in op.attribute(CALLED) for o in self.program.computations[c].values()}
        target = ""
        if kind == "fusion":
            kind = next((k for k in ("dot", "sort", "scatter") if k in inner), kind)
        elif kind == "custom-call":
            target = next(iter(op.attribute(r'custom_call_target="([^"]*)"')), "")
            self.custom_calls[target] += times
            kind = "dot" if "gemm" in target or "matmul" in target else kind
        # Memory space 5 is the host's.
        shapes = [op.shape, *(ops[o].shape for o in op.operands if o in ops)]
        if (
            op.opcode in self.HOST
            or "callback" in target
            or any("S(5)" in shape for shape in shapes)
            or '_xla_compute_type="host"' in op.attributes
        ):
            self.host.append(op.name)
        kind = "gemm" if kind == "dot" else kind
        if op.opcode == "copy-start":  # its own shape holds the source as well
            op = next(o for o in ops.values() if o.opcode == "copy-done" and op.name in o.operands)
        self.details.append(Operation(op.name, kind, scope, times, self.written(op)))

    def written(self, op: _Op) -> int:
        """Bytes that ``op`` writes, without buffers of which it writes a slice in place."""
        root, inside = op, {op.name: op}
        if op.opcode.startswith("fusion"):
            (fused,) = op.attribute(CALLED)
            root, inside = self.program.roots[fused], self.program.computations[fused]
        outputs = [inside[o] for o in root.operands] if root.opcode == "tuple" else [root]
        total = 0
        for output in outputs:
            made = output
            while made.opcode == "bitcast":
                made = inside[made.operands[0]]
            total += 0 if made.opcode in self.IN_PLACE else _bytes(output.shape)
        return total
