"""Physics of one robot: rigid bodies of our own, and MuJoCo's MJX."""
