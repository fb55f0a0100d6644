"""Show what takes the space of an installation without extras, and what each dependency alone brings.

python tests/bench/installed.py

Sizes are of the files that each distribution has recorded, in the environment of this Python.
"""

from __future__ import annotations

import importlib.metadata as metadata
from collections.abc import Iterator
from functools import cache

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "td3-brax"
LARGEST = 10
"""Rows of the first table."""


@cache
def required(name: str, extras: frozenset[str]) -> frozenset[tuple[str, frozenset[str]]]:
    """Return the distributions, with their extras, that ``name`` with ``extras`` requires on this machine."""
    found = set()
    for line in metadata.requires(name) or ():
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            found.add((canonicalize_name(one.name), frozenset(one.extras)))
    return frozenset(found)


def reachable(leave_out: str = "") -> set[str]:
    """Return all distributions that an installation has, if ``leave_out`` is not required directly."""
    begin = [one for one in required(ROOT, frozenset()) if one[0] != leave_out]
    seen, ahead = set(begin), begin
    while ahead:
        ahead = [one for parent in ahead for one in required(*parent) if one not in seen]
        seen.update(ahead)
    return {name for name, _ in seen}


@cache
def megabytes(name: str) -> float:
    """Return the size of a distribution's files."""
    files = metadata.files(name) or ()
    return sum(path.stat().st_size for file in files if (path := file.locate()).is_file()) / 1e6  # type: ignore[attr-defined]


def roots_of(name: str) -> Iterator[str]:
    """Yield the direct dependencies through which ``name`` comes."""
    for direct, extras in sorted(required(ROOT, frozenset())):
        seen = ahead = {(direct, extras)}
        while ahead:
            ahead = {one for parent in ahead for one in required(*parent)} - seen
            seen = seen | ahead
        if name in {found for found, _ in seen}:
            yield direct


def main() -> None:
    """Print the total and both tables."""
    everything = reachable()
    total = sum(map(megabytes, everything))
    print(
        f"{len(everything)} distributions, {total:,.0f} MB\n\n| distribution | MB | through |\n|---|---:|---|"
    )
    for name in sorted(everything, key=megabytes, reverse=True)[:LARGEST]:
        print(f"| {name} {metadata.version(name)} | {megabytes(name):,.0f} | {', '.join(roots_of(name))} |")
    print("\n| without | MB less | with it go |\n|---|---:|---|")
    saved = {}
    for direct, _ in required(ROOT, frozenset()):
        gone = everything - reachable(direct)
        saved[direct] = sum(map(megabytes, gone)), sorted(gone - {direct}, key=megabytes, reverse=True)
    for direct, (size, gone) in sorted(saved.items(), key=lambda item: -item[1][0]):
        print(f"| {direct} | {size:,.1f} | {', '.join(gone)} |")


if __name__ == "__main__":
    main()
