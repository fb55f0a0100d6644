"""``td3-brax bench``: measure where time goes on this device, or count what a program would do on a GPU."""
