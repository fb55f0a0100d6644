"""Convert an actor on the device to a policy that can be saved, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from td3_brax import __version__
from td3_brax.algorithm.networks import Actor
from td3_brax.algorithm.obs_stats import OBS_CLIP, deviation
from td3_brax.algorithm.packing import unpack
from td3_brax.algorithm.state import ObsStats, Params
from td3_brax.config import Config
from td3_brax.envs.task import Task
from td3_brax.policy import Policy


def actor_params(policy: Policy) -> Params:
    """Return the parameter tree of the actor in ``policy``."""
    layers = enumerate(zip(policy.weights, policy.biases, strict=True))
    return {"params": {"mlp": {f"layer_{i}": {"kernel": w, "bias": b} for i, (w, b) in layers}}}


def make_policy(
    config: Config, task: Task, actor: Params, stats: ObsStats, meta: Mapping[str, Any]
) -> Policy:
    """Make a policy for a file from an actor and its observation statistics."""
    scaled, size = config.normalize_obs, task.obs_size
    network = Actor(config.hidden_sizes, task.action_size)
    named = unpack(network, actor, jnp.zeros(size))["params"]["mlp"]
    layers = [named[f"layer_{i}"] for i in range(len(config.hidden_sizes) + 1)]
    return Policy(
        env=config.env,
        weights=tuple(np.asarray(layer["kernel"]) for layer in layers),
        biases=tuple(np.asarray(layer["bias"]) for layer in layers),
        obs_mean=np.asarray(stats.mean if scaled else np.zeros(size), np.float32),
        obs_deviation=np.asarray(deviation(stats) if scaled else np.ones(size), np.float32),
        obs_clip=OBS_CLIP if scaled else math.inf,
        action_low=np.asarray(task.action_low, np.float32),
        action_high=np.asarray(task.action_high, np.float32),
        meta={
            "version": __version__,
            "env_args": json.loads(config.env_args or "{}"),
            "time_limit": config.time_limit,
            **meta,
        },
    )
