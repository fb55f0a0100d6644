"""Rigid bodies on hinges and slides, every number an array over environments."""
