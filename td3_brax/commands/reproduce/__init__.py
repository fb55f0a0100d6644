"""The TD3 paper's experiments: ``td3-brax reproduce``."""
