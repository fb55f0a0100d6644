"""Programs to start from; each runs as ``python -m td3_brax.examples.NAME``."""
