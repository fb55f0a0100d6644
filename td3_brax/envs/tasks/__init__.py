"""The tasks of brax, Gymnasium and MuJoCo Playground, as this package runs them."""
