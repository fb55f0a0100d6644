"""Tasks and the batching of them. Nothing here knows of learning."""
