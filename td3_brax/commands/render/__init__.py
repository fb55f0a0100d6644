"""Films and an interactive page of trained policies: ``td3-brax render``."""
