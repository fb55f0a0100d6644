"""Brax's tasks behind the protocol: what is left out between steps is never needed."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs as brax_envs
from brax import fluid

from td3_brax.envs.physics.mjx import patched
from td3_brax.envs.tasks.brax import BraxTask
from td3_brax.names import BACKENDS, BRAX_TASKS
from td3_brax.option import ConfigError


def test_cholesky_factors_equal_lapacks():
    rng = np.random.default_rng(0)
    for n in (1, 2, 6, 14, 23):
        a = rng.normal(size=(300, n, n + 2)).astype(np.float32)
        a = a @ a.swapaxes(1, 2) + 0.1 * np.eye(n, dtype=np.float32)
        ours, lapacks = np.asarray(jax.jit(patched.factor)(a)), np.linalg.cholesky(a.astype(np.float64))
        np.testing.assert_allclose(ours, lapacks, rtol=1e-4, atol=1e-4)
        assert (np.triu(ours, 1) == 0).all()
    assert np.isnan(patched.factor(-jnp.eye(3))).any()


MANY_FACTORS = """
import sys
import jax
import jax.numpy as jnp
import td3_brax.envs.tasks.brax
def factors(key, n):
    a = jax.random.normal(key, (300, n, n))
    a = a @ a.swapaxes(-1, -2) + n * jnp.eye(n)
    def again(_, a):
        one, two = jnp.linalg.cholesky(a), jnp.linalg.cholesky(2 * a)
        return a + 1e-6 * (one @ one.swapaxes(-1, -2) - two @ two.swapaxes(-1, -2) / 2)
    return jax.lax.fori_loop(0, 1000, again, a).sum()
keys = jax.random.split(jax.random.key(0), 2)
for n in (14, 23):
    assert jnp.isfinite(jax.pmap(lambda key: factors(key, n))(keys)).all()
def solves(key):
    a = jnp.tril(jax.random.normal(key, (2048, 14, 14)) / 14) + jnp.eye(14)
    def again(_, x):
        half = jax.scipy.linalg.solve_triangular(a, x, lower=True)
        x = jax.scipy.linalg.solve_triangular(2 * a, x + half, lower=True, trans="T")
        return x / jnp.abs(x).max()
    return jax.lax.fori_loop(0, 300, again, jnp.ones((2048, 14, 1))), a
x, a = jax.pmap(solves)(keys)
assert jnp.isfinite(x).all()
y = jax.jit(lambda a, x: jax.scipy.linalg.solve_triangular(a, x, lower=True))(a[0], x[0])
assert jnp.allclose(a[0] @ y, x[0], atol=1e-4)
"""


def test_factors_and_solves_on_as_many_devices_as_cores_never_wait_for_each_other():
    """JAX 0.10 alone does not come back from this where there are two cores."""
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_enable_concurrency_optimized_scheduler=true"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "2"}
    subprocess.run([sys.executable, "-c", MANY_FACTORS], env=environment, check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "backend", "physics"),
    [
        ("ant", "mjx", "fast"),
        pytest.param("ant", "mjx", "mjx", marks=pytest.mark.slow),
        pytest.param("walker2d", "mjx", "fast", marks=pytest.mark.slow),
        pytest.param("reacher", "generalized", "auto", marks=pytest.mark.slow),
        pytest.param("hopper", "spring", "auto", marks=pytest.mark.slow),
    ],
)
def test_steps_equal_brax_itself(name, backend, physics):
    """30 steps of 4 environments with the kept leaves alone: brax's own numbers."""
    task, env = BraxTask(name, backend, physics), brax_envs.get_environment(name, backend=backend)
    close = 1e-4
    if name == "walker2d":  # MJX stops after four iterations, solved or not; the fast physics go on
        close = 1e-3
        env.sys = env.sys.tree_replace({"opt.iterations": 50})
    keys = jax.random.split(jax.random.key(0), 4)
    actions = jax.random.uniform(jax.random.key(1), (30, 4, task.action_size), minval=-1, maxval=1)

    def full(state, action):
        with jax.default_matmul_precision("highest"):
            state = jax.vmap(env.step)(state, action)
        return state, (state.obs, state.reward, state.done > 0.5)

    def kept(state, action):
        out = jax.vmap(task.step)(state, action)
        return out.state, (out.obs, out.reward, out.terminated)

    @jax.jit
    def both():
        _, wanted = jax.lax.scan(full, jax.vmap(env.reset)(keys), actions[:1])
        first, _ = jax.vmap(task.reset)(keys)
        # Each step from brax's own state, so that rounding is not amplified by contacts.
        full_state = jax.vmap(env.reset)(keys)

        def step(state, action):
            after, want = full(state, action)
            _, got = kept(jax.vmap(task._compact)(state), action)
            return after, (want, got)

        return wanted, kept(first, actions[0])[1], jax.lax.scan(step, full_state, actions)[1]

    wanted, got, (many_wanted, many_got) = jax.device_get(both())
    for w, g in [*zip(wanted, got, strict=True), *zip(many_wanted, many_got, strict=True)]:
        np.testing.assert_allclose(
            g.astype(float), np.reshape(w, g.shape).astype(float), rtol=close, atol=close
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["ant", "halfcheetah"])
def test_every_backend_builds_and_keeps_little(name, backend):
    task = BraxTask(name, backend)
    state, obs = jax.eval_shape(task.reset, jax.random.key(0))
    assert obs.shape == (task.obs_size,)
    out = jax.eval_shape(task.step, state, jnp.zeros(task.action_size))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), out.state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) < 8000


def test_brax_swimmer_still_needs_the_older_names_of_clip():
    """When this fails, ``patched.patch_brax_fluid`` can be removed."""
    assert "a_min=" in inspect.getsource(fluid)
    task = BraxTask("swimmer", "generalized")
    state, _ = jax.eval_shape(task.reset, jax.random.key(0))
    jax.eval_shape(task.step, state, jnp.zeros(task.action_size))


def test_a_backend_that_a_task_lacks_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--backend=mjx: .*swimmer"):
        BraxTask("swimmer", "mjx")
    BraxTask("halfcheetah", "spring")
    assert list(tmp_path.iterdir()) == []  # MuJoCo would log a warning here


def test_names_are_brax_own():
    theirs = set(brax_envs._envs) - {"fast"}  # brax's own test environment
    assert set(BRAX_TASKS) == theirs


def test_solver_loops_are_known():
    assert not BraxTask("ant").open_loops
    assert BraxTask("halfcheetah", physics="mjx").open_loops
    assert not BraxTask("halfcheetah", "spring").open_loops


def test_physics_keep_full_precision():
    task = BraxTask("ant", physics="mjx")
    state, _ = jax.eval_shape(task.reset, jax.random.key(0))
    for lowered in (
        jax.jit(task.step).lower(state, jnp.zeros(task.action_size)),
        jax.jit(task.reset).lower(jax.random.key(0)),
    ):
        products = re.findall(r".*dot_general.*", lowered.as_text())
        assert products
        assert all("HIGHEST" in product for product in products)


@pytest.mark.parametrize(
    ("version", "before"),
    [
        ("0.10.2", True),
        ("0.11.1rc3", True),
        ("0.11.2rc1", False),
        ("0.11.2", False),
        ("0.12.0.dev20261101+abcdef", False),
        ("0.12.0.1", False),
        ("1.0", False),
    ],
)
def test_any_version_of_jax_is_read(version: str, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version__", version)
    assert patched.cholesky_may_deadlock() == before
