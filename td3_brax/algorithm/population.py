"""Members of one program: runs that differ only in seeds and scalar options, along a leading axis M."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.algorithm.state import Hyper
from td3_brax.config import Config


def over_members(
    function: Callable[..., Any], num_members: int, side_by_side: bool = True
) -> Callable[..., Any]:
    """Map ``function``, which takes one member, over a leading member axis.

    A single member is computed without a batch axis.

    Args:
        side_by_side: compute all members in each operation, which keeps a GPU busy. Otherwise compute one
            member after another, which is faster on a CPU because its caches hold one member.
    """

    def single(*args: Any) -> Any:
        out = function(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], out)

    if num_members == 1:
        return single
    if side_by_side:
        return jax.vmap(function)
    return lambda *args: jax.lax.map(lambda member: function(*member), args)


def make_hyper(config: Config) -> Hyper:
    """Return the hyperparameters of ``config`` that may differ between members, as scalars.

    With ``init_from``, no action is uniformly random: the loaded policy plays the warm-up, with its
    exploration noise. The first update then waits for a batch's worth of transitions at least, because a
    few transitions would only spoil networks that have learnt something.
    """
    learn_from = 0 if config.update_during_warmup else config.warmup_env_steps
    integers = {
        "learn_from": max(learn_from, config.batch_size) if config.init_from else learn_from,
        "warmup_env_steps": 0 if config.init_from else config.warmup_env_steps,
        "total_env_steps": config.total_env_steps,
    }
    floats = [field.name for field in dataclasses.fields(Hyper) if field.name not in integers]
    return Hyper(
        **{name: jnp.float32(getattr(config, name)) for name in floats},
        **{name: jnp.int32(value) for name, value in integers.items()},
    )


def make_hypers(configs: Sequence[Config]) -> Hyper:
    """Return the hyperparameters of several members, leaves [M]."""
    return jax.tree.map(lambda *x: jnp.stack(x), *map(make_hyper, configs))


def make_keys(configs: Sequence[Config]) -> jax.Array:
    """Return the PRNG keys of several members, [M]."""
    return jnp.stack([jax.random.key(config.seed) for config in configs])
