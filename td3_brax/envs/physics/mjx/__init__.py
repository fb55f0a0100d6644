"""MJX's kinematics and forces, with our own constraints and solver."""
