"""Tasks, their physics, and vectorised environments. Nothing here knows about learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from td3_brax.envs.interfaces.make import make

__all__ = ["make"]


def __getattr__(name: str) -> Any:
    """Import :func:`make` on first use, because it needs JAX."""
    if name != "make":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from td3_brax.envs.interfaces.make import make

    return make
