"""``td3-brax reproduce``: run the TD3 paper's experiments."""
