"""What a user's own module has, named as ``MODULE:NAME``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from td3_brax.option import ConfigError, nearest


def imported(option: str, name: str, kind: type | None = None) -> Any:
    """What ``MODULE:NAME`` is; modules of the working directory are found too.

    Args:
        kind: of which it must be a class.
    Raises:
        ConfigError: of ``option``: there is no such module, it has no such name, or it is something else.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    module, _, attribute = name.partition(":")
    try:
        there = vars(importlib.import_module(module))
    except ImportError as error:
        raise ConfigError(option, name, f"can't be imported ({error})") from None
    if attribute not in there:
        raise ConfigError(option, name, f"{module} has no {attribute}{nearest(attribute, there)}")
    found = there[attribute]
    if kind and not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(option, name, f"must be a {kind.__module__}.{kind.__qualname__}")
    return found
