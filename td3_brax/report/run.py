"""``td3-brax report RUN...``: a page about any set of runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from td3_brax.cli import Parser, fail, guarded
from td3_brax.report.page import FOLDER, Page
from td3_brax.report.runs import RunsError, find, group


def job(argv: Sequence[str]) -> int:
    """Write the page; returns the exit code."""
    parser = Parser(prog="td3-brax report", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run, sweep, or W&B's offline folder")
    parser.add_argument("--out", metavar="DIR", help="where to (default: the folder if it is one, or here)")
    parser.add_argument("--title", metavar="TEXT", default="Runs of td3-brax", help="of the page")
    args = parser.parse(argv)
    out = Path(args.out or (args.runs[0] if len(args.runs) == 1 and Path(args.runs[0]).is_dir() else "."))
    try:
        groups = group(find(args.runs))
        page = Page(groups, args.title).write(out)
    except RunsError as error:
        return fail(error)
    except OSError as error:
        return fail(f"--out={out}: can't be written ({error.strerror})")
    count = sum(len(own.runs) for own in groups)
    print(f"{count} runs in {len(groups)} groups: {page}; its pictures and tables: {out / FOLDER}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
