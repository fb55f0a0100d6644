"""``td3-brax report RUN...``: a page about any set of runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from td3_brax.cli import Parser, fail, guarded
from td3_brax.commands.report.groups import Group, group
from td3_brax.commands.report.page import FOLDER, Page
from td3_brax.commands.report.runs import RunsError, find
from td3_brax.option import show
from td3_brax.runs.formatting import counted


def job(argv: Sequence[str]) -> int:
    """Write the page; returns the exit code: 1 where a run could not be read and is not on it."""
    parser = Parser(prog="td3-brax report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run, sweep, or W&B's offline folder")
    parser.add_argument("--out", metavar="DIR", help="where to (default: the folder if it is one, or here)")
    parser.add_argument("--title", metavar="TEXT", default="Runs of td3-brax", help="of the page")
    args = parser.parse(argv)
    out = Path(args.out or (args.runs[0] if len(args.runs) == 1 and Path(args.runs[0]).is_dir() else "."))
    left_out: list[str] = []
    try:
        groups = group(find(args.runs, lambda error: left_out.append(f"left out: {error}")))
        page = Page(groups, args.title, [*left_out, *shared(groups)]).write(out)
    except RunsError as error:
        return fail(error)
    except OSError as error:
        return fail(f"--out={out}: can't be written ({error.strerror})")
    for line in left_out:
        print(f"warning: {line}", file=sys.stderr)
    runs, own = counted(sum(len(own.runs) for own in groups), "run"), counted(len(groups), "group")
    print(f"{runs} in {own}: {page}; its pictures and tables: {out / FOLDER}")
    return 1 if left_out else 0


def shared(groups: Sequence[Group]) -> list[str]:
    """A line about options beside their presets' that groups have in common, if there are such."""
    common = dict(groups[0].changed)
    for other in groups[1:]:
        common = {k: v for k, v in common.items() if k in other.changed and other.changed[k] == v}
    said = " ".join(f"--{name}={show(value)}" for name, value in common.items())
    return [f"With options of their own beside those of their presets: {said}"] if said else []


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
