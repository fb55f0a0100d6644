"""Draw many random models: ``python tests/bench/fuzz.py 1000`` (and a first seed).

Prints what is wrong as it is found, then how many were right, refused and wrong, by which names, and how many
of the attributes that MuJoCo's schema has were set.
"""

from __future__ import annotations

import collections
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["JAX_PLATFORMS"] = "cpu"

import fuzz


def main(count: int, first: int = 0) -> int:
    """The number of models that are wrong."""
    counts: collections.Counter[str] = collections.Counter()
    names: collections.Counter[str] = collections.Counter()
    changed: set[str] = set()
    for seed in range(first, first + count):
        verdict = fuzz.of_seed(seed)
        if verdict is None:
            counts["left out: C MuJoCo diverges"] += 1
            continue
        counts["wrong" if verdict.wrong else "refused" if verdict.refused else "right"] += 1
        names.update(verdict.refused)
        changed.update(verdict.changed)
        if verdict.wrong:
            print(f"{seed}: off by {verdict.error * fuzz.CLOSE:.1g}: {verdict.changed}", flush=True)
    print(", ".join(f"{number:,} {what}" for what, number in counts.most_common()))
    print("\n".join(f"{number:>6,} {name}" for name, number in names.most_common()))
    print(f"{len(changed):,} attributes and elements were set")
    return counts["wrong"]


if __name__ == "__main__":
    sys.exit(min(1, main(*map(int, sys.argv[1:] or ["1000"]))))
