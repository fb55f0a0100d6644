"""What a line must name, whatever its wording."""

from __future__ import annotations

import re
from collections.abc import Iterable


def names(text: str, words: Iterable[str]) -> bool:
    """Whether each of ``words`` stands in ``text`` by itself, as often as it does in ``words``.

    A name that is listed and then said to be the nearest one is there twice.
    """
    wanted = list(words)
    return all(
        len(re.findall(rf"(?<![\w.-]){re.escape(word)}(?![\w-]|\.\d)", text)) >= wanted.count(word)
        for word in wanted
    )
