"""TD3 for MuJoCo tasks of brax and Gymnasium, trained entirely on the accelerator."""

from typing import TYPE_CHECKING, Any

from td3_brax.policy import Policy, PolicyError, load_policy

if TYPE_CHECKING:
    from td3_brax.api import Result, fit

__version__ = "0.3.0.dev0"
__all__ = ["Policy", "PolicyError", "Result", "__version__", "fit", "load_policy"]


def __getattr__(name: str) -> Any:
    """Import the training code on first use, because a saved policy needs only NumPy."""
    if name not in ("Result", "fit"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from td3_brax import api

    return getattr(api, name)
