"""Count how often the host submits work to a GPU, from the compiler's list of what the host does (thunks)."""

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

THUNK_LISTS = ("*.thunk_sequence_after_thunk_passes.txt", "*.thunk_sequence.txt")
"""Files that the compiler writes: the list with CUDA graphs (its command buffers), or, if it made none, the
list without."""
THUNK_NAMES = "*.thunk_metadata.txt"
"""The file with the names of thunks by number."""
LINE = re.compile(r"^( *)(\d+): k(\w+)")
LABEL = re.compile(r"^ *(\w+): *$")
LOOP = re.compile(r'profile_annotation: "([^"]*)"\s+thunk_id: (\d+)')


@dataclass
class Thunk:
    """One item of the list: something that the host does."""

    number: int
    kind: str
    """``CustomKernel``, ``Copy``, ``CommandBuffer``, ``While``, ``Conditional``, ..."""
    in_condition: bool
    """Whether it is part of a loop's condition."""
    children: list[Thunk] = field(default_factory=list)
    """What a loop, a branch or a graph contains."""


def compile_and_count(
    function: Callable[..., Any],
    args: Sequence[Any],
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[jax.stages.Compiled, int | None]:
    """Compile with :func:`.aot.compile_for`, and count how often a call of the program submits work.

    The count is None if this version of the compiler writes no list.
    """
    with tempfile.TemporaryDirectory() as folder:
        dumping = {**(options or {}), "xla_dump_to": folder}
        compiled = aot.compile_for(function, args, options=dumping, **settings)
        listed, named = (
            [path for f in files for path in Path(folder).glob(f)] for files in (THUNK_LISTS, [THUNK_NAMES])
        )
        if not listed or not named:
            return compiled, None
        trips = trip_counts(compiled.as_text() or "")
        loops = {int(number): trips.get(name) for name, number in LOOP.findall(named[0].read_text())}
        return compiled, submissions(read(listed[0].read_text()), loops)


def trip_counts(text: str) -> dict[str, int]:
    """Return the trip count by name of the loops in HLO ``text`` for which the compiler knows it."""
    loops = [op for ops in parse(text).computations.values() for op in ops.values() if op.opcode == "while"]
    return {op.name: int(trips[0]) for op in loops if (trips := op.attribute(TRIPS))}


def read(text: str) -> list[Thunk]:
    """Parse the compiler's list, in which the content of a loop or a graph is indented."""
    outermost: list[Thunk] = []
    parents: list[tuple[int, Thunk]] = []
    part = ""
    for line in text.splitlines():
        if label := LABEL.match(line):
            part = label[1]
        elif match := LINE.match(line):
            depth = len(match[1])
            while parents and parents[-1][0] >= depth:
                parents.pop()
            thunk = Thunk(int(match[2]), match[3], part == "condition")
            (parents[-1][1].children if parents else outermost).append(thunk)
            parents.append((depth, thunk))
    return outermost


def submissions(thunks: Sequence[Thunk], trips: Mapping[int, int | None]) -> int:
    """Count the submissions of ``thunks``: graphs and single launches.

    A graph is one submission, whatever it contains. Other loops are run by the host. If their trip count is
    not known, one pass and the wait for the device's answer count. A conditional counts with all its branches
    and the wait.

    Args:
        trips: trip counts of loops by the thunk's number.
    """
    total = 0
    for thunk in thunks:
        if thunk.kind == "While":
            body = submissions([t for t in thunk.children if not t.in_condition], trips)
            condition = submissions([t for t in thunk.children if t.in_condition], trips)
            known = trips.get(thunk.number)
            total += body + condition + 1 if known is None else known * body
        elif thunk.kind in ("Conditional", "Sequential"):
            total += submissions(thunk.children, trips) + (thunk.kind == "Conditional")
        else:
            total += not thunk.kind.endswith("Done")
    return total
