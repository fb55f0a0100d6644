"""MJX's kinematics and forces, with constraints and a solver of our own."""
