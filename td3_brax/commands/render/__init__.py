"""``td3-brax render``: films and interactive 3D pages of trained policies."""
