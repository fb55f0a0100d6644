"""Interfaces of other libraries to our tasks: ``brax.envs.Env``, gymnax-style functions, Gymnasium."""
