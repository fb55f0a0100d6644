"""Write the tables of options in ``docs/train.md`` from the fields of ``Config``.

python docs/tools/options.py
"""

from __future__ import annotations

from dataclasses import Field
from itertools import groupby
from pathlib import Path
from typing import Any

from td3_brax.cli import default_text
from td3_brax.config import FIELDS, INT32_MAX
from td3_brax.option import allowed_names, show

PAGE = Path(__file__).parent.parent / "train.md"
BEGIN = "<!-- options: written by `python docs/tools/options.py` -->"
END = "<!-- options: end -->"
KINDS = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "tuple[int, ...]": "whole numbers, such as `[256,256]`",
}
MANY = 10
"""With more names than these, the names have a page of their own."""
NOT_IN_SWEEPS = ("out", "wandb", "checkpoint_replay")
"""A sweep sets them itself."""


def _allowed(field: Field[Any]) -> str:
    """The values that an option takes."""
    meta, names = field.metadata, allowed_names(field)
    if len(names) > MANY:
        return "see [Tasks](tasks.md)"
    if names:
        return ", ".join(f"`{name}`" for name in names)
    if meta["mapping"]:
        return "a JSON object"
    words = {"above": "above", "at_least": "at least", "at_most": "at most"}
    bounds = [
        f"{word} {show(meta[key])}" for key, word in words.items() if meta[key] not in (None, INT32_MAX)
    ]
    return ", ".join([KINDS[str(field.type)], *bounds, *(f"or `{word}`" for word in meta["words"])])


def tables() -> str:
    """One table for each group of options."""
    lines = []
    for group, fields in groupby(FIELDS.items(), lambda item: item[1].metadata["group"]):
        lines += ["", f"### {group[0].upper()}{group[1:]}", ""]
        lines += ["| option | what it does | default | values | notes |", "|---|---|---|---|---|"]
        for name, field in fields:
            varies = field.metadata["varies"] and name not in NOT_IN_SWEEPS
            marks = {"resume": field.metadata["may_change"], "packed": varies}
            notes = ", ".join(mark for mark, there in marks.items() if there)
            text = field.metadata["help"].replace("<", "&lt;").replace("|", "\\|")
            cells = [f"`--{name}`", text, default_text(name), _allowed(field), notes]
            lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines[1:])


def main() -> None:
    """Write the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
