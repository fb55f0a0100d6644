"""Dynamics of rigid bodies on hinges and slides. Every number is an array over environments."""
