"""Tasks, their physics, and vectorised environments. Nothing here knows about learning."""
