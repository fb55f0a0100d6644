"""Compiled programs, kept on disk between processes by JAX's persistent cache.

The key of a program is its text and the machine. Options that are data to the program, such as a learning
rate or the seed, are not part of the key. Several processes may share the folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

from td3_brax.runs.files import write_atomically

MIN_COMPILE_S = 0.3
"""Programs that take at least this many seconds to compile are kept."""


def prepare() -> None:
    """Keep programs in ``$JAX_COMPILATION_CACHE_DIR`` or, without it, in the user's cache folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "td3-brax", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_S)
    _write_entries_atomically()


def _write_entries_atomically() -> None:
    """Patch JAX's cache so that an entry appears whole or not at all.

    JAX writes entries in place. Another process may then read a partial entry, and an entry whose writer was
    killed stays damaged: each later process finds it so and compiles again.
    """
    from jax._src.lru_cache import LRUCache

    original_put = LRUCache.put
    if original_put.__module__ == __name__:
        return

    def put(self: Any, key: str, value: bytes) -> None:
        if self.eviction_enabled:  # the user has limited the cache's size: JAX takes a lock then
            return original_put(self, key, value)
        return write_atomically(Path(str(self.path)) / f"{key}-cache", value)

    LRUCache.put = put  # type: ignore[method-assign]
