"""``td3-brax bench``: where the time goes on this device, and what a GPU that is not there would do."""
