"""One training run on the host: its folder, checkpoints, metrics, devices and signals."""
