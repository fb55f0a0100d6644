"""How often the host submits work to a GPU, from the compiler's list of what it would have the host do."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from td3_brax.commands.bench import aot
from td3_brax.commands.bench.hlo import TRIPS, parse

LISTED = ("*.thunk_sequence_after_thunk_passes.txt", "*.thunk_sequence.txt")
"""Files that the compiler leaves: what is submitted with CUDA graphs (its command buffers), or where it made
none."""
NAMED = "*.thunk_metadata.txt"
"""Its names by number."""
LINE = re.compile(r"^( *)(\d+): k(\w+)")
LABEL = re.compile(r"^ *(\w+): *$")
LOOP = re.compile(r'profile_annotation: "([^"]*)"\s+thunk_id: (\d+)')


@dataclass
class Thunk:
    """One thing that the host does."""

    number: int
    kind: str
    """``CustomKernel``, ``Copy``, ``CommandBuffer``, ``While``, ``Conditional``, ..."""
    in_condition: bool
    """Whether it decides if a loop goes on."""
    inside: list[Thunk] = field(default_factory=list)


def compile_listed(
    function: Callable[..., Any],
    args: Sequence[Any],
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[jax.stages.Compiled, int | None]:
    """:func:`td3_brax.commands.bench.aot.compile_for`, and how often a call of the program submits work.

    That number is ``None`` where this version of the compiler does not tell.
    """
    with tempfile.TemporaryDirectory() as folder:
        dumping = {**(options or {}), "xla_dump_to": folder}
        compiled = aot.compile_for(function, args, options=dumping, **settings)
        listed, named = (
            [path for f in files for path in Path(folder).glob(f)] for files in (LISTED, [NAMED])
        )
        if not listed or not named:
            return compiled, None
        trips = trip_counts(compiled.as_text() or "")
        loops = {int(number): trips.get(name) for name, number in LOOP.findall(named[0].read_text())}
        return compiled, submissions(read(listed[0].read_text()), loops)


def trip_counts(text: str) -> dict[str, int]:
    """Trip count by name, of the loops in HLO ``text`` whose count the compiler knows."""
    loops = [op for ops in parse(text).computations.values() for op in ops.values() if op.opcode == "while"]
    return {op.name: int(trips[0]) for op in loops if (trips := op.attribute(TRIPS))}


def read(text: str) -> list[Thunk]:
    """The compiler's list; what is inside of a loop or a graph is indented there."""
    outermost: list[Thunk] = []
    around: list[tuple[int, Thunk]] = []
    part = ""
    for line in text.splitlines():
        if label := LABEL.match(line):
            part = label[1]
        elif match := LINE.match(line):
            depth = len(match[1])
            while around and around[-1][0] >= depth:
                around.pop()
            thunk = Thunk(int(match[2]), match[3], part == "condition")
            (around[-1][1].inside if around else outermost).append(thunk)
            around.append((depth, thunk))
    return outermost


def submissions(thunks: Sequence[Thunk], trips: Mapping[int, int | None]) -> int:
    """Graphs and single launches of ``thunks``; ``trips`` of loops by their number.

    A graph is one, whatever it holds. The host goes around the other loops; where it does not know how often,
    one pass and the wait for the device's answer are counted. Of branches all are, and the wait.
    """
    total = 0
    for thunk in thunks:
        if thunk.kind == "While":
            body = submissions([t for t in thunk.inside if not t.in_condition], trips)
            asked = submissions([t for t in thunk.inside if t.in_condition], trips)
            known = trips.get(thunk.number)
            total += body + asked + 1 if known is None else known * body
        elif thunk.kind in ("Conditional", "Sequential"):
            total += submissions(thunk.inside, trips) + (thunk.kind == "Conditional")
        else:
            total += not thunk.kind.endswith("Done")
    return total
