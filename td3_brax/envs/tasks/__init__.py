"""Tasks of brax, Gymnasium and MuJoCo Playground."""
