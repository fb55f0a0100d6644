"""Definition of an option: default, help text, allowed values, and the error for a bad value."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any


class ConfigError(ValueError):
    """A bad value of an option. Its text is one line with the option, the value and what is allowed."""

    def __init__(self, option: str, value: object, allowed: str) -> None:
        super().__init__(f"--{option}={show(value)}: {allowed}")


def show(value: object) -> str:
    """Return ``value`` as a user would type it on the command line, in one line."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(show(item) for item in value) + "]"
    text = str(value)
    if isinstance(value, float):
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return text if text.isprintable() else ascii(text)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"`` with the closest of ``names``, or an empty text if none is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def option(
    default: Any,
    group: str,
    help: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    words: Mapping[str, int] | None = None,
    patterns: Mapping[str, re.Pattern[str]] | None = None,
    mapping: bool = False,
    may_change: bool = False,
    varies: bool = False,
) -> Any:
    """Return a dataclass field with the option's help text and its allowed values.

    Args:
        default: value if the option is not given and no preset sets it.
        group: heading in the help under which the option is listed.
        help: help text, one line.
        above, at_least, at_most: bounds of a number.
        choices: allowed texts.
        words: texts that stand for a number, such as ``all``.
        patterns: patterns of further allowed texts, by how the help shows them.
        mapping: whether the text is a JSON object.
        may_change: whether a resumed run may have another value than before.
        varies: whether the members of one program may have different values.
    """
    bounds = {"above": above, "at_least": at_least, "at_most": at_most}
    return dataclasses.field(
        default=default,
        metadata={
            "group": group,
            "help": help,
            "choices": choices,
            "words": words or {},
            "patterns": patterns or {},
            "mapping": mapping,
            "may_change": may_change,
            "varies": varies,
            **bounds,
        },
    )


def allowed_names(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Return the names that an option allows: its choices, and how the help shows its patterns."""
    meta = field.metadata
    return (*meta["choices"], *meta["patterns"])


def check_field(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise :class:`ConfigError` if the field's metadata do not allow ``value``."""
    meta = field.metadata
    matches = any(pattern.fullmatch(str(value)) for pattern in meta["patterns"].values())
    names = allowed_names(field)
    if names and value not in meta["choices"] and not matches:
        allowed = f"is not known{nearest(str(value), names)}; must be one of {', '.join(names)}"
        raise ConfigError(field.name, value, allowed)
    numbers = value if isinstance(value, tuple) else (value,)
    if field.name == "hidden_sizes" and not numbers:
        raise ConfigError(field.name, value, "must name at least one layer, such as [256,256]")
    for number in numbers:
        if isinstance(number, bool | str):
            continue
        if not math.isfinite(number):
            raise ConfigError(field.name, value, "must be finite")
        if meta["above"] is not None and number <= meta["above"]:
            raise ConfigError(field.name, value, f"must be above {show(meta['above'])}")
        if meta["at_least"] is not None and number < meta["at_least"]:
            raise ConfigError(field.name, value, f"must be at least {show(meta['at_least'])}")
        if meta["at_most"] is not None and number > meta["at_most"]:
            raise ConfigError(field.name, value, f"must be at most {show(meta['at_most'])}")
