"""Docstrings as mkdocstrings reads them: names in place of roles, and an empty line before each section."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?([\w.]+)`")
SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$", flags=re.M)


class Docstrings(griffe.Extension):
    """Rewrite every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object once its docstring is known."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = SECTION.sub(r"\n\1:", text)
