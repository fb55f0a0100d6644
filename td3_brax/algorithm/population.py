"""Members of one program: runs that differ in their seeds and floats only, over a leading axis M."""

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
    """``function`` of one member, over a leading member axis; without a batch axis for a single one.

    Args:
        side_by_side: all members in each operation, which a GPU needs to be busy; otherwise one after
            another, which on a CPU is faster (its caches hold one member).
    """

    def single(*args: Any) -> Any:
        out = function(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], out)

    if num_members == 1:
        return single
    if side_by_side:
        return jax.vmap(function)
    return lambda *args: jax.lax.map(lambda own: function(*own), args)


def make_hyper(config: Config) -> Hyper:
    """What of ``config`` may differ between members, as one member's scalars."""
    learn_from = 0 if config.update_during_warmup else config.warmup_env_steps
    whole = {"learn_from": learn_from} | {
        name: getattr(config, name) for name in ("warmup_env_steps", "total_env_steps")
    }
    floats = [field.name for field in dataclasses.fields(Hyper) if field.name not in whole]
    return Hyper(
        **{name: jnp.float32(getattr(config, name)) for name in floats},
        **{name: jnp.int32(value) for name, value in whole.items()},
    )


def make_hypers(configs: Sequence[Config]) -> Hyper:
    """The same for members, leaves [M]."""
    return jax.tree.map(lambda *x: jnp.stack(x), *map(make_hyper, configs))


def make_keys(configs: Sequence[Config]) -> jax.Array:
    """The members' PRNG keys [M]."""
    return jnp.stack([jax.random.key(config.seed) for config in configs])
