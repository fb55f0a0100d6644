"""Brax's own tasks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.config import ConfigError
from td3_brax.envs.quiet import quiet, silent
from td3_brax.envs.wrapped import WrappedTask

with silent():
    from brax import envs as brax_envs
    from brax import fluid


class _OlderNumpy:
    """``jax.numpy`` with the names of ``clip``'s arguments that JAX 0.10 has dropped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def clip(x: jax.Array, a_min: Any = None, a_max: Any = None) -> jax.Array:
        return jnp.clip(x, a_min, a_max)


fluid.jp = _OlderNumpy()  # what swimmer's drag is written with


class BraxTask(WrappedTask):
    """A task of ``brax.envs``.

    Args:
        name: a name that ``brax.envs`` registers.
        backend: ``mjx``, ``generalized``, ``positional`` or ``spring``.
    """

    def __init__(self, name: str, backend: str = "mjx") -> None:
        with quiet():
            try:
                env = brax_envs.get_environment(name, backend=backend)
            except ValueError as error:
                if "Unsupported backend" not in str(error):
                    raise
                raise ConfigError("backend", backend, f"brax has no {name} on it; try another") from None
        super().__init__(name, env, env.sys.mj_model, lambda state: state.pipeline_state.q)
