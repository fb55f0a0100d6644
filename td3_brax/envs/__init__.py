"""Tasks, their physics, and environments that step together. Nothing here knows about learning."""
