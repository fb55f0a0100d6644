"""From a run's options to its compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from td3_brax.algorithm import shards
from td3_brax.algorithm.learner import TD3
from td3_brax.algorithm.loop import Loop
from td3_brax.algorithm.networks import MLP, Actor, Critic
from td3_brax.algorithm.population import make_hypers, make_keys
from td3_brax.algorithm.schedule import make_schedule
from td3_brax.algorithm.state import TrainState
from td3_brax.config import Config
from td3_brax.envs.task import Task
from td3_brax.envs.vector import VectorEnv
from td3_brax.user_code import imported


def build(config: Config, task: Task, side_by_side: bool = True) -> Loop:
    """The program for ``config`` on ``task``.

    Args:
        side_by_side: see :func:`td3_brax.algorithm.population.over_members`; parameters are packed then.
    Raises:
        ConfigError: an update ratio that the number of environments can't meet, or a network that is none.
    """
    parts = config.devices
    limit, spread = config.episode_limit, config.spread_phases
    return Loop(
        env=VectorEnv(task, config.num_envs // parts, limit, spread),
        td3=TD3(
            Actor(config.hidden_sizes, task.action_size, config.compute_dtype),
            Critic(
                config.hidden_sizes,
                config.num_critics,
                config.num_atoms,
                config.compute_dtype,
                MLP if config.critic == "mlp" else imported("critic", config.critic, nn.Module),
                config.critic_action_scale,
            ),
            config.policy_delay,
            parts,
            packed=side_by_side,
        ),
        schedule=make_schedule(config),
        batch_size=config.batch_size // parts,
        capacity=config.capacity // parts,
        n_step=config.n_step,
        normalize_obs=config.normalize_obs,
        shards=parts,
        side_by_side=side_by_side,
    )


def start(loop: Loop, configs: Sequence[Config]) -> TrainState:
    """The state at the start of the runs ``configs``."""
    return loop.init(make_keys(configs), make_hypers(configs))


def jit_init(loop: Loop, config: Config) -> Any:
    """``() -> state``: the start of a single run on all its shards, jitted."""
    return shards.jit(lambda: start(loop, [config]), loop.shards, (), shards.STATE)


def jit_chunk(loop: Loop) -> Any:
    """``state -> (state, metrics)``: :meth:`Loop.train_chunk` of a single run on all its shards, jitted.

    The state is donated.
    """
    specs = (shards.STATE, shards.ALIKE)
    return shards.jit(loop.train_chunk, loop.shards, specs[:1], specs, donate_argnums=(0,))
