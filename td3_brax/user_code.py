"""Import of a user's class or function, named as ``MODULE:NAME``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from td3_brax.option import ConfigError, nearest


def import_object(option: str, name: str, kind: type | None = None) -> Any:
    """Import ``MODULE:NAME`` and return it. Modules in the working directory are found too.

    Args:
        option: option that gave the name, for error messages.
        name: ``MODULE:NAME``.
        kind: class of which the object must be a subclass.
    Raises:
        ConfigError: there is no such module, it has no such name, or the object is not a subclass of
            ``kind``.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    module, _, attribute = name.partition(":")
    try:
        attributes = vars(importlib.import_module(module))
    except ImportError as error:
        raise ConfigError(option, name, f"can't be imported ({error})") from None
    if attribute not in attributes:
        raise ConfigError(option, name, f"{module} has no {attribute}{nearest(attribute, attributes)}")
    found = attributes[attribute]
    if kind and not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(option, name, f"must be a subclass of {kind.__module__}.{kind.__qualname__}")
    return found
