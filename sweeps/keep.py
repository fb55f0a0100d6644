"""Copy the small files of finished runs into the kept results, without paths of this machine.

    python sweeps/keep.py runs/paper sweeps/results/paper
    python sweeps/keep.py runs/suite sweeps/results/suite/0.3.0

Each run below the first folder keeps its place below the second one: ``config.json``, ``metrics.jsonl``,
``about.json`` and, if it is there, ``gymnasium.json``. Absolute paths become names. A run that is already
kept is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

FILES = ("config.json", "metrics.jsonl", "about.json", "gymnasium.json")


def without_paths(text: str) -> str:
    """Return a command or a text with each absolute path cut to its last name."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\"]+/)+(?=[^\s/'\"])", "", text)


def cleaned(name: str, text: str, place: Path) -> str:
    """Return the text of a run's file as it is kept at ``place``."""
    if name == "metrics.jsonl":
        return text
    content = json.loads(text)
    if name == "config.json":
        content["out"] = str(place)
    if name == "about.json":
        for process in content:
            process["command"] = re.sub(r"^(\S*/)?__main__\.py", "td3-brax", process["command"])
    return without_paths(json.dumps(content, indent=2)) + "\n"


def keep(source: Path, target: Path) -> list[Path]:
    """Copy the runs below ``source`` to ``target``; return their places below both."""
    places = sorted(log.parent.relative_to(source) for log in source.rglob("metrics.jsonl"))
    for place in places:
        (target / place).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (source / place / name).exists():
                text = (source / place / name).read_text()
                (target / place / name).write_text(cleaned(name, text, place))
    return places


def main(argv: Sequence[str] | None = None) -> int:
    """Copy, and print what was copied; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with runs")
    parser.add_argument("target", type=Path, help="folder below sweeps/results")
    args = parser.parse_args(argv)
    places = keep(args.source, args.target)
    for place in places:
        print(args.target / place)
    return 0 if places else 1


if __name__ == "__main__":
    sys.exit(main())
