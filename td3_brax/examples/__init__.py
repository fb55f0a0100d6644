"""Example programs. Run one with ``python -m td3_brax.examples.NAME``."""
