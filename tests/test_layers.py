"""An MLP by a GPU's kernels is the one that flax makes: their arithmetic, run by XLA here."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td3_brax.algorithm.apply import apply, apply_by_kernels, apply_first
from td3_brax.algorithm.networks import Actor, Critic
from td3_brax.algorithm.packing import pack, unpack
from td3_brax.commands.bench import aot
from td3_brax.kernels.layers import MANY_ROWS, ROWS_SUMMED

OBS, ACTION, ROWS = 11, 5, 64
NETWORKS = {
    "actor": Actor((40, 24), ACTION),
    "actor without hidden layers": Actor((), ACTION),
    "eleven layers": Actor((7,) * 11, ACTION),
    "twins": Critic((40, 24), 2),
    "wider than a tile": Critic((70, 33, 100), 3, 51, action_scale=2.5),
}


def packed(network: Any, *inputs: jax.Array, seed: int = 0) -> jax.Array:
    return pack(network.init(jax.random.key(seed), *inputs))


def inputs_of(network: Any, rows: int, dtype: Any = np.float64) -> list[jax.Array]:
    rng = np.random.default_rng(rows)
    sizes = (OBS,) if isinstance(network, Actor) else (OBS, ACTION)
    return [jnp.asarray(rng.normal(size=(rows, size)), dtype) for size in sizes]


def values_and_gradients(function: Any, params: jax.Array, *inputs: jax.Array) -> list[jax.Array]:
    """What ``function`` makes, and the gradients of all that goes in, for weights that differ."""
    out, back = jax.vjp(function, params, *inputs)
    weights = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
    return [out, *back(weights)]


@pytest.mark.parametrize(
    ("name", "rows"),
    [*((name, 3) for name in NETWORKS), ("twins", MANY_ROWS + 1), ("actor", 2 * ROWS_SUMMED + 7)],
)
def test_values_and_gradients_are_those_of_flax(name: str, rows: int) -> None:
    network = NETWORKS[name]
    with jax.enable_x64(True):
        inputs = inputs_of(network, rows)
        params = packed(network, *inputs).astype(jnp.float64)
        by_kernels = partial(apply_by_kernels, network, None, interpret=True)
        got = jax.jit(partial(values_and_gradients, by_kernels))(params, *inputs)
        wanted = values_and_gradients(partial(apply, network), params, *inputs)
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


def test_members_side_by_side_are_as_alone() -> None:
    network = NETWORKS["twins"]
    inputs = [x.reshape(3, 20, -1) for x in inputs_of(network, 60, np.float32)]
    params = jnp.stack([packed(network, *(x[0] for x in inputs), seed=seed) for seed in range(3)])
    made = partial(values_and_gradients, partial(apply_by_kernels, network, None, interpret=True))
    together, alone = jax.jit(jax.vmap(made))(params, *inputs), jax.jit(made)
    for i in range(3):
        for mine, theirs in zip(together, alone(params[i], *(x[i] for x in inputs)), strict=True):
            np.testing.assert_allclose(mine[i], theirs, rtol=1e-5, atol=1e-5)


def test_the_first_critic_of_an_ensemble() -> None:
    network = NETWORKS["wider than a tile"]
    inputs = inputs_of(network, 30, np.float32)
    params = packed(network, *inputs)
    got = apply_by_kernels(network, 1, params, *inputs, interpret=True)[0]
    np.testing.assert_allclose(got, apply(network, params, *inputs)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got, apply_first(network, params, *inputs), rtol=1e-5, atol=1e-5)


def test_leading_axes_are_kept() -> None:
    network = NETWORKS["actor"]
    (obs,) = inputs_of(network, 12, np.float32)
    params = packed(network, obs)
    got = apply_by_kernels(network, None, params, obs.reshape(3, 4, OBS), interpret=True)
    np.testing.assert_allclose(got, apply(network, params, obs).reshape(3, 4, ACTION), rtol=1e-5, atol=1e-6)


def test_bfloat16_rounds_operands_of_wide_layers_alone() -> None:
    network = Critic((64, 64), 2, compute_dtype="bfloat16")
    inputs = inputs_of(network, 50, np.float32)
    params = packed(network, *inputs)
    got = apply_by_kernels(network, None, params, *inputs, interpret=True)
    wanted = network.apply(unpack(network, params, *inputs), *inputs)
    exact = Critic((64, 64), 2).apply(unpack(network, params, *inputs), *inputs)
    assert np.abs(exact - wanted).max() > 1e-4
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_gpu_has_a_kernel_for_each_layer_and_one_for_all_gradients() -> None:
    network = NETWORKS["wider than a tile"]
    inputs = inputs_of(network, ROWS, np.float32)
    params = packed(network, *inputs)

    def loss(params: jax.Array) -> jax.Array:
        return jnp.sum(apply(network, params, *inputs) ** 2)

    layers, wide = len(network.hidden_sizes) + 1, [OBS + ACTION, *network.hidden_sizes, network.num_atoms]
    forward = 2 * network.num_critics * ROWS * sum(a * b for a, b in itertools.pairwise(wide))
    of_input = forward - 2 * network.num_critics * ROWS * wide[0] * wide[1]
    for members in (1, 3):
        shape = jax.ShapeDtypeStruct((members, params.size), params.dtype)
        counts = aot.count(aot.compile_for(jax.vmap(jax.grad(loss)), (shape,)))
        assert counts.by_kind["kernel"] == layers + (layers - 1) + 1
        assert counts.operations <= 2 * layers + 3
        assert sum(d.flops for d in counts.details) == members * (2 * forward + of_input)
