"""TD3 on MJX/Brax, trained wholly on the accelerator."""

from td3_brax.policy import Policy, PolicyError, load_policy

__version__ = "0.1.0"
__all__ = ["Policy", "PolicyError", "__version__", "load_policy"]
