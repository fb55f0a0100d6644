"""``td3-brax report RUN...``: write an HTML page with figures and tables about runs."""

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
    """Write the page; return the exit code: 1 if a run could not be read and was left out."""
    parser = Parser(prog="td3-brax report", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run or a sweep, or W&B's offline folder"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder to write to (default: RUN if it is one folder, else .)"
    )
    parser.add_argument("--title", metavar="TEXT", default="Runs of td3-brax", help="title of the page")
    args = parser.parse(argv)
    out = Path(args.out or (args.runs[0] if len(args.runs) == 1 and Path(args.runs[0]).is_dir() else "."))
    left_out: list[str] = []
    try:
        groups = group(find(args.runs, lambda error: left_out.append(f"left out a run: {error}")))
        page = Page(groups, args.title, [*left_out, *shared(groups)]).write(out)
    except RunsError as error:
        return fail(error)
    except OSError as error:
        return fail(f"--out={out}: can't be written ({error.strerror})")
    for line in left_out:
        print(f"warning: {line}", file=sys.stderr)
    runs = counted(sum(len(group.runs) for group in groups), "run")
    print(f"{runs} in {counted(len(groups), 'group')}: {page} (figures and tables are in {out / FOLDER})")
    return 1 if left_out else 0


def shared(groups: Sequence[Group]) -> list[str]:
    """Return a line about the options that all groups changed from their presets, if there are any."""
    common = dict(groups[0].changed)
    for other in groups[1:]:
        common = {k: v for k, v in common.items() if k in other.changed and other.changed[k] == v}
    text = " ".join(f"--{name}={show(value)}" for name, value in common.items())
    return [f"All runs change these options of their presets: {text}"] if text else []


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
