"""TD3 on brax's and Gymnasium's MuJoCo tasks, trained wholly on the accelerator."""

from typing import TYPE_CHECKING, Any

from td3_brax.policy import Policy, PolicyError, load_policy

if TYPE_CHECKING:
    from td3_brax.api import Result, fit

__version__ = "0.2.0"
__all__ = ["Policy", "PolicyError", "Result", "__version__", "fit", "load_policy"]


def __getattr__(name: str) -> Any:
    """What trains is imported where it is used: a saved policy needs NumPy alone."""
    if name not in ("Result", "fit"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from td3_brax import api

    return getattr(api, name)
