"""Read the text of a compiled program (HLO): what it runs, and how often."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

OTHER = "other"
"""Scope of operations outside all scopes that were asked for."""


@dataclass(frozen=True)
class Operation:
    """An operation of a compiled program."""

    name: str
    """Its name in the program's text."""
    kind: str
    """``fusion``, ``kernel``, ``gemm``, ``sort``, ``scatter``, ``custom-call``, ``copy``, ..."""
    scope: str
    """Innermost named scope that it comes from."""
    times: int
    """How often a call of the program runs it."""
    bytes: int
    """Bytes that it writes each time, without slices written in place into a larger buffer."""
    source: str
    """File in which it was traced; empty if the compiler added it, such as copies of what a loop carries."""
    flops: int
    """Floating-point operations of its matrix products each time."""


@dataclass(frozen=True)
class Instruction:
    """A line of HLO text."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> list[str]:
        """Return all matches of ``pattern`` in the text after the operands."""
        return re.findall(pattern, self.attributes)


@dataclass
class Program:
    """The computations of an HLO module."""

    entry: str = ""
    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)
    roots: dict[str, Instruction] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """Source file by number of the stack frame."""


HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
COMMENT = re.compile(r"/\*.*?\*/")
CALLED = r"\b(?:calls|to_apply)=%?([\w.\-]+)"
TABLES = ("FileNames", "FileLocations", "StackFrames")
"""Tables before the computations. Each numbered line refers to a line of the table before."""
CONTRACTED = r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([^}\]]*)'
"""Axes of a product's left operand that are summed over; library calls use the longer name."""
GRID = r"\bgrid_[xyz] = (\d+)"
PROGRAM_FLOPS = r"flops\\22: \\22([\d.e+]+)"
"""Cost that td3-brax's kernels (``kernels/layers.py``) state for each program of their grid."""
TRIPS = r'"known_trip_count":\{"n":"(\d+)"'
BRANCHES = r"\b(?:true_computation|false_computation)=%?([\w.\-]+)"


def _close(text: str, start: int) -> int:
    """Return the index after the bracket that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "({[") - (text[i] in ")}]")
        if depth == 0:
            return i + 1
    raise ValueError(f"unbalanced: {text[start : start + 80]}")


def parse(text: str) -> Program:
    """Parse the text of an HLO module."""
    program = Program(sources=_sources(text.partition("\n%")[0]))
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
            op = Instruction(match[2], rest[:end], opcode[1], tuple(operands), rest[after:])
            program.computations[current][op.name] = op
            if match[1]:
                program.roots[current] = op
    return program


def _sources(head: str) -> dict[str, str]:
    """Parse the text before the computations; return the source file by number of the stack frame."""
    tables: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in head.splitlines():
        number, _, rest = line.partition(" ")
        if line.isalpha():
            rows = tables.setdefault(line, {})
        elif number.isdigit():
            rows[number] = (
                re.findall(r"(?:file_name_id|file_location_id)=(\d+)", rest) or [rest.strip('"')]
            )[0]
    names, places, frames = (tables.get(name, {}) for name in TABLES)
    return {frame: names.get(places.get(place, ""), "") for frame, place in frames.items()}


def _bytes(shape: str) -> int:
    """Return the bytes of all arrays in a shape."""
    total = 0
    for kind, bits, dims in ARRAY.findall(shape):
        size = math.prod(int(d) for d in dims.split(",") if d)
        total += size if kind == "pred" else -(-size * int(bits) // 8)
    return total


class Walk:
    """Adds up what a program runs, from its entry down through loops and calls."""

    FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast")) | frozenset(
        ("after-all", "add-dependency", "opt-barrier", "partition-id", "replica-id")
    )
    HOST = frozenset(("infeed", "outfeed", "send", "recv"))
    KINDS: ClassVar = {"dot": "gemm", "sort": "sort", "scatter": "scatter"}
    OWN_KERNEL = "__gpu$xla.gpu.triton"
    IN_PLACE = frozenset(("dynamic-update-slice", "scatter"))

    def __init__(self, program: Program, scopes: Sequence[str]) -> None:
        self.program = program
        names = "|".join(map(re.escape, scopes))
        self.scope_pattern = re.compile(rf'(?:[/("])({names})(?=[/)"])')
        self.details: list[Operation] = []
        self.host: list[str] = []
        self.unknown_loops: list[str] = []
        self.conditionals: list[str] = []
        self.custom_calls: Counter[str] = Counter()

    def computation(self, name: str, times: int, scope: str) -> None:
        """Add what the computation ``name`` does when it runs ``times`` times."""
        ops = self.program.computations[name]
        for op in ops.values():
            self.operation(op, ops, times, scope)

    def operation(self, op: Instruction, ops: dict[str, Instruction], times: int, scope: str) -> None:
        """Add one line of a computation."""
        metadata = op.attribute(r'op_name=("(?:[^"\\]|\\.)*")')
        found = self.scope_pattern.findall(metadata[0]) if metadata else []
        scope = found[-1] if found else scope
        if '_xla_compute_type="host"' in op.attributes:
            self.host.append(op.name)
        if op.opcode == "while":
            trips = op.attribute(TRIPS)
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

    def add(self, op: Instruction, ops: dict[str, Instruction], times: int, scope: str) -> None:
        """Add one operation."""
        kind = op.opcode.removesuffix("-start")
        inner = {o.opcode for c in op.attribute(CALLED) for o in self.program.computations[c].values()}
        target = ""
        if kind == "fusion":
            kind = next((k for opcode, k in self.KINDS.items() if opcode in inner), kind)
        elif kind == "custom-call":
            target = next(iter(op.attribute(r'custom_call_target="([^"]*)"')), "")
            if target == self.OWN_KERNEL:  # our own kernel, compiled as part of the program
                kind = "kernel"
            else:
                self.custom_calls[target] += times
                kind = "gemm" if "gemm" in target or "matmul" in target else kind
        # Memory space 5 is the host's.
        shapes = [op.shape, *(ops[o].shape for o in op.operands if o in ops)]
        if kind in self.HOST or "callback" in target or any("S(5)" in shape for shape in shapes):
            self.host.append(op.name)
        if op.opcode == "copy-start":  # its shape also includes the source
            done = (o for o in ops.values() if o.opcode == "copy-done" and op.name in o.operands)
            op = next(done, op)
        frame = next(iter(op.attribute(r"stack_frame_id=(\d+)")), "")
        source = self.program.sources.get(frame, "")
        written, flops = self.written(op), self.flops(op, ops)
        self.details.append(Operation(op.name, kind, scope, times, written, source, flops))

    def flops(self, op: Instruction, ops: dict[str, Instruction]) -> int:
        """Count the multiplications and additions of the matrix products in ``op``, one of ``ops``."""
        if called := op.attribute(CALLED):
            inside = [self.program.computations[name] for name in called]
            return sum(self.flops(o, body) for body in inside for o in body.values())
        if stated := op.attribute(PROGRAM_FLOPS):
            return round(float(stated[0]) * math.prod(map(int, op.attribute(GRID))))
        contracted = op.attribute(CONTRACTED)
        if not contracted:
            return 0
        left, result = (ARRAY.findall(x.shape)[0][2].split(",") for x in (ops[op.operands[0]], op))
        axes = map(int, re.findall(r"\d+", contracted[0]))
        return 2 * math.prod(int(d) for d in result if d) * math.prod(int(left[axis]) for axis in axes)

    def written(self, op: Instruction) -> int:
        """Count the bytes that ``op`` writes, without buffers in which it writes a slice in place."""
        root, inside = op, {op.name: op}
        if op.opcode.startswith("fusion"):
            (fused,) = op.attribute(CALLED)
            root, inside = self.program.roots[fused], self.program.computations[fused]
        outputs = [inside[o] for o in root.operands] if root.opcode == "tuple" else [root]
        total = 0
        for output in outputs:
            writer = output
            while writer.opcode == "bitcast":
                writer = inside[writer.operands[0]]
            total += 0 if writer.opcode in self.IN_PLACE else _bytes(output.shape)
        return total


def walk(text: str, scopes: Sequence[str]) -> Walk:
    """Add up what one call of the program with this HLO ``text`` runs.

    An operation belongs to the innermost of ``scopes`` in its name, else to the scope of the loop around it.
    Asynchronous pairs count once. A fusion counts once, whatever it contains.
    """
    program = parse(text)
    found = Walk(program, scopes)
    found.computation(program.entry, 1, OTHER)
    return found
