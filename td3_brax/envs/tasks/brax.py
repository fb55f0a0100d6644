"""Brax's tasks."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import mujoco

from td3_brax.envs.physics.mjx.dynamics import State
from td3_brax.envs.physics.mjx.patched import patch_brax_fluid
from td3_brax.envs.physics.rigid.physics import RigidPhysics
from td3_brax.envs.suppress import suppress_output, suppress_warnings
from td3_brax.envs.tasks.wrapper import WrappedTask, needed_inputs
from td3_brax.option import ConfigError

with suppress_output():
    from brax import envs as brax_envs
    from brax import fluid


patch_brax_fluid(fluid)


class BraxTask(WrappedTask):
    """A task of ``brax.envs``.

    Args:
        name: a name registered in ``brax.envs``.
        backend: ``mjx``, ``generalized``, ``positional`` or ``spring``.
        physics: for the ``mjx`` backend: ``mjx``, ``fast`` for :class:`RigidPhysics`, or ``auto`` for fast
            physics if they provide everything that the task reads.
    Raises:
        ConfigError: brax does not have the task on this backend, or the fast physics do not support it.
    """

    def __init__(self, name: str, backend: str = "mjx", physics: str = "auto") -> None:
        with suppress_warnings():
            try:
                env = brax_envs.get_environment(name, backend=backend)
            except ValueError as error:
                if "Unsupported backend" not in str(error):
                    raise
                raise ConfigError(
                    "backend", backend, f"brax has no {name} on this backend; try another"
                ) from None
        if backend == "mjx" and physics != "mjx":
            try:
                env.pipeline_step = _fast_pipeline_step(env)
            except ValueError as error:
                if physics == "fast":
                    raise ConfigError("physics", physics, f"does not support {name}: {error}") from None
        super().__init__(name, env, env.sys.mj_model, lambda state: state.pipeline_state.q)


UPDATED_LEAVES = (".q", ".qd", ".qpos", ".qvel", ".qacc_warmstart", ".x.pos")
"""Leaves of brax's pipeline state that the fast physics update."""


def model_of(env: Any) -> mujoco.MjModel:
    """Return the MuJoCo model of a brax environment, with the options that the environment has changed."""
    model = copy.copy(env.sys.mj_model)
    for name in ("timestep", "integrator", "cone", "disableflags", "iterations", "ls_iterations", "solver"):
        setattr(model.opt, name, getattr(env.sys.opt, name))
    return model


def leaves_read_after_step(env: Any) -> list[str]:
    """Return paths of the pipeline state's leaves that ``env`` reads after its pipeline step."""
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
    """Return a replacement of ``env.pipeline_step`` that uses :class:`RigidPhysics`.

    Raises:
        ValueError: the model or a leaf that ``env`` reads is not supported. The text names it.
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
