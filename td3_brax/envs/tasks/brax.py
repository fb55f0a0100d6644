"""Brax's own tasks."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import mujoco

from td3_brax.envs.physics.mjx.dynamics import State
from td3_brax.envs.physics.rigid.physics import RigidPhysics
from td3_brax.envs.suppress import suppress_output, suppress_warnings
from td3_brax.envs.tasks.wrapper import WrappedTask, needed_inputs
from td3_brax.option import ConfigError

with suppress_output():
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
        physics: of the ``mjx`` backend: ``mjx``, ``fast`` for :class:`RigidPhysics`, or ``auto`` for these
            where they give all that the task reads.
    Raises:
        ConfigError: a backend that brax does not have the task on, or fast physics that don't cover it.
    """

    def __init__(self, name: str, backend: str = "mjx", physics: str = "auto") -> None:
        with suppress_warnings():
            try:
                env = brax_envs.get_environment(name, backend=backend)
            except ValueError as error:
                if "Unsupported backend" not in str(error):
                    raise
                raise ConfigError("backend", backend, f"brax has no {name} on it; try another") from None
        if backend == "mjx" and physics != "mjx":
            try:
                env.pipeline_step = _fast_pipeline_step(env)
            except ValueError as error:
                if physics == "fast":
                    raise ConfigError("physics", physics, f"does not cover {name}: {error}") from None
        super().__init__(name, env, env.sys.mj_model, lambda state: state.pipeline_state.q)


UPDATED_LEAVES = (".q", ".qd", ".qpos", ".qvel", ".qacc_warmstart", ".x.pos")
"""Leaves of brax's state that the fast physics keep up to date."""


def model_of(env: Any) -> mujoco.MjModel:
    """The model of a task of brax's, with the options that the task has changed."""
    model = copy.copy(env.sys.mj_model)
    for name in ("timestep", "integrator", "cone", "disableflags", "iterations", "ls_iterations", "solver"):
        setattr(model.opt, name, getattr(env.sys.opt, name))
    return model


def leaves_read_after_step(env: Any) -> list[str]:
    """Which leaves of the pipeline's state ``env`` reads after a step of the pipeline."""
    state = jax.eval_shape(env.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((env.action_size,), jnp.float32)

    def step(after: Any, state: Any, action: jax.Array) -> Any:
        stepped = copy.copy(env)
        stepped.pipeline_step = lambda *_: after
        out = stepped.step(state, action)
        return out.obs, out.reward, out.done

    traced = jax.make_jaxpr(step)(state.pipeline_state, state, action).jaxpr
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.pipeline_state)]
    read = needed_inputs(traced, [True] * len(traced.outvars))
    return [path for path, live in zip(paths, read, strict=False) if live]


def _fast_pipeline_step(env: Any) -> Any:
    """``env.pipeline_step`` by :class:`RigidPhysics`.

    Raises:
        ValueError: what ``env`` has or reads that they lack.
    """
    physics = RigidPhysics(model_of(env))
    unknown = [path for path in leaves_read_after_step(env) if path not in UPDATED_LEAVES]
    if unknown:
        raise ValueError(f"a task that reads {', '.join(unknown)}")

    def pipeline_step(state: Any, action: jax.Array) -> Any:
        before = State(qpos=state.qpos, qvel=state.qvel, qacc=state.qacc_warmstart)
        after, bodies = physics.step(before, None, action, lambda seen: seen.xpos, env._n_frames)
        return state.replace(
            q=after.qpos,
            qd=after.qvel,
            qpos=after.qpos,
            qvel=after.qvel,
            qacc_warmstart=after.qacc,
            x=state.x.replace(pos=bodies[1:]),
        )

    return pipeline_step
