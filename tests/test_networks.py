"""The bfloat16 product and value histograms, beside what they stand for."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td3_brax.algorithm.apply import apply
from td3_brax.algorithm.matmul import MIN_WIDTH, product
from td3_brax.algorithm.networks import Actor, Critic, LayerNorm, tanh


def rounded(x: np.ndarray) -> np.ndarray:
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


@pytest.mark.parametrize("rows", [1, 7, 256])
def test_the_product_and_its_gradients_are_those_of_rounded_operands(rows):
    rng = np.random.default_rng(rows)
    x, w, g = (rng.normal(size=s).astype(np.float32) for s in ((rows, 64), (64, 48), (rows, 48)))
    out, pull = jax.jit(lambda x, w: jax.vjp(lambda x, w: product(x, w, "bfloat16"), x, w))(x, w)
    dx, dw = jax.jit(pull)(g)
    x, w, g = rounded(x), rounded(w), rounded(g)
    for got, want in ((out, x @ w), (dx, g @ w.T), (dw, x.T @ g)):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_bfloat16_networks_stay_near_float32_and_only_wide_products_change():
    obs = jax.random.normal(jax.random.key(0), (32, 27))
    action = jnp.tanh(jax.random.normal(jax.random.key(1), (32, 8)))
    for make, inputs in (
        (lambda d, h: Actor(h, 8, d), (obs,)),
        (lambda d, h: Critic(h, 2, 51, d), (obs, action)),
    ):
        for hidden, exact in (((MIN_WIDTH - 1, MIN_WIDTH - 1), True), ((256, 256), False)):
            params = make("float32", hidden).init(jax.random.key(2), *inputs)
            want = apply(make("float32", hidden), params, *inputs)
            got = apply(make("bfloat16", hidden), params, *inputs)
            assert got.dtype == jnp.float32
            assert bool((got == want).all()) == exact
            np.testing.assert_allclose(got, want, atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_critics", [1, 2, 3])
def test_critics_and_their_gradients_are_those_of_each_alone(num_critics, dtype):
    """However they are made: at once, or one by one."""
    critic = Critic((64, 64), num_critics, 5, dtype)
    obs = jax.random.normal(jax.random.key(0), (32, 27))
    action = jnp.tanh(jax.random.normal(jax.random.key(1), (32, 8)))
    weights = jax.random.normal(jax.random.key(2), (num_critics, 32, 5))
    params = critic.init(jax.random.key(3), obs, action)

    @functools.partial(jax.jit, static_argnums=0)
    def of(critic, params, weights):
        value = lambda p, a: (apply(critic, p, obs, a) * weights).sum()  # noqa: E731
        return apply(critic, params, obs, action), *jax.grad(value, (0, 1))(params, action)

    out, grads, grad_action = of(critic, params, weights)
    alone, moved = critic.clone(num_critics=1), 0
    for i in range(num_critics):
        part = jax.tree.map(lambda x, i=i: x[i : i + 1], (params, out, grads))
        want = of(alone, part[0], weights[i : i + 1])
        near = functools.partial(
            np.testing.assert_allclose, rtol=1e-4, atol=1e-2 if dtype == "bfloat16" else 1e-5
        )
        jax.tree.map(near, (part[1], part[2]), want[:2])
        moved += want[2]
    near(grad_action, moved)


@pytest.mark.parametrize("shape", [(1,), (7, 16), (3, 5, 64)])
def test_layer_norm_and_its_gradients_are_those_of_flax(shape):
    rng = np.random.default_rng(len(shape))
    x, grad = 3 + 5 * rng.normal(size=shape), rng.normal(size=shape)
    params = {name: rng.normal(size=shape[-1]) for name in ("scale", "bias")}
    with jax.enable_x64(True):
        networks = LayerNorm(), nn.LayerNorm(use_fast_variance=False)
        ours, flax = (jax.tree.structure(network.init(jax.random.key(0), x)) for network in networks)
        assert ours == flax
        both = []
        for network in networks:
            out, pull = jax.vjp(lambda p, x, n=network: n.apply({"params": p}, x), params, jnp.asarray(x))
            both.append((out, pull(jnp.asarray(grad))))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), *both)


def test_tanh_has_a_derivative_where_it_rounds_to_1():
    x = jnp.linspace(-40, 40, 1001)
    value, derivative = jax.jit(jax.vmap(jax.value_and_grad(tanh)))(x)
    np.testing.assert_array_equal(value, jnp.tanh(x))
    np.testing.assert_allclose(derivative, np.cosh(np.asarray(x, np.float64)) ** -2.0, rtol=1e-5)
    with jax.enable_x64(True):
        assert jax.grad(tanh)(0.5) == pytest.approx(1 - np.tanh(0.5) ** 2, rel=1e-12)


def test_an_actor_that_plays_a_bound_everywhere_still_has_a_gradient():
    actor, obs = Actor((16,), 3), jax.random.normal(jax.random.key(0), (32, 5))
    params = actor.init(jax.random.key(1), obs)
    params["params"]["mlp"]["layer_1"]["bias"] += 11.0
    assert (apply(actor, params, obs) == 1).all()
    gradient = jax.grad(lambda p: apply(actor, p, obs).sum())(params)
    assert all((np.abs(x).max() > 0) for x in jax.tree.leaves(gradient))
