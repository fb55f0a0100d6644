"""Construction of the training program from a run's options."""

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
from td3_brax.user_code import import_object


def build(config: Config, task: Task, side_by_side: bool = True) -> Loop:
    """Build the training program for ``config`` on ``task``.

    Args:
        side_by_side: see :func:`td3_brax.algorithm.population.over_members`; it also packs the parameters.
    Raises:
        ConfigError: the number of environments does not allow the update ratio, or ``config.critic`` is not a
            network.
    """
    num_shards = config.devices
    limit, spread = config.episode_limit, config.spread_phases
    return Loop(
        env=VectorEnv(task, config.num_envs // num_shards, limit, spread),
        td3=TD3(
            Actor(config.hidden_sizes, task.action_size, config.compute_dtype),
            Critic(
                config.hidden_sizes,
                config.num_critics,
                config.num_atoms,
                config.compute_dtype,
                MLP if config.critic == "mlp" else import_object("critic", config.critic, nn.Module),
                config.critic_action_scale,
            ),
            config.policy_delay,
            num_shards,
            packed=side_by_side,
        ),
        schedule=make_schedule(config),
        batch_size=config.batch_size // num_shards,
        capacity=config.capacity // num_shards,
        n_step=config.n_step,
        normalize_obs=config.normalize_obs,
        shards=num_shards,
        side_by_side=side_by_side,
    )


def start(loop: Loop, configs: Sequence[Config]) -> TrainState:
    """Return the initial state of the runs ``configs``, one member each."""
    return loop.init(make_keys(configs), make_hypers(configs))


def jit_init(loop: Loop, config: Config) -> Any:
    """Jit ``() -> state``: the initial state of a single run on all its shards."""
    return shards.jit(lambda: start(loop, [config]), loop.shards, (), shards.SPLIT_STATE)


def jit_chunk(loop: Loop) -> Any:
    """Jit ``state -> (state, metrics)``: :meth:`Loop.train_chunk` of a single run on all its shards.

    The state is donated.
    """
    specs = (shards.SPLIT_STATE, shards.REPLICATED)
    return shards.jit(loop.train_chunk, loop.shards, specs[:1], specs, donate_argnums=(0,))
