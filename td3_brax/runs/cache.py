"""Compiled programs, kept on disk from one process to the next by JAX's persistent cache.

A program's key is its text and the machine's: options that are data to it, such as a step size or the seed,
are not part of it. Several processes may share the folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

from td3_brax.runs.files import write_whole

WORTH_S = 0.3
"""Programs that took as long to compile are kept."""


def prepare() -> None:
    """Keep programs in ``$JAX_COMPILATION_CACHE_DIR`` or, without it, in the user's cache folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "td3-brax", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_S)
    _write_whole()


def _write_whole() -> None:
    """Entries appear whole or not at all.

    JAX writes them in place: another process may read a part, and what a process that is killed leaves is
    found damaged, and compiled again, by each one after it.
    """
    from jax._src.lru_cache import LRUCache

    kept = LRUCache.put
    if kept.__module__ == __name__:
        return

    def put(self: Any, key: str, value: bytes) -> None:
        if self.eviction_enabled:  # somebody has set a size: JAX takes a lock then
            return kept(self, key, value)
        return write_whole(Path(str(self.path)) / f"{key}-cache", value)

    LRUCache.put = put  # type: ignore[method-assign]
