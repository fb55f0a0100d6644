"""Time other programs at the same sizes, in turn with ours: steps of bare brax, and updates of other TD3s.

The other trainers are called unchanged, if they are installed (``pip install rejax==0.1.3 gymnax==0.0.9
sbx-rl stable-baselines3``), with a buffer that holds enough transitions. Their updates are timed in blocks of
64, which suits them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.algorithm import shards
from td3_brax.commands.bench.measure import medians
from td3_brax.commands.bench.parts import STEPS, make_parts, work
from td3_brax.config import Config
from td3_brax.envs.task import Task
from td3_brax.names import BRAX_TASKS
from td3_brax.runs.device import on_accelerator

Peer = tuple[Callable[[], Any], float]
"""A call, and the number of environment steps or updates that it does."""
Peers = dict[str, Peer]
BLOCK = 64
"""Updates per call of a peer."""
STORED = 10_000
"""Transitions in a peer's buffer."""


def run(config: Config, task: Task) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure our rates and those of the installed peers.

    Return rows with the rates and the ratio of ours to the peer's, and the peers that are left out.
    """
    side_by_side = on_accelerator()
    ours, done, rows = make_parts(config, task, side_by_side), work(config, task), []
    trainers, missing = updaters(config, task)
    for part, unit, peers in (("collect", "steps/s", steppers(config)), ("update", "updates/s", trainers)):
        if not peers:
            continue
        seconds = medians({"ours": ours[part], **{name: call for name, (call, _) in peers.items()}})
        rate = done[part] / seconds["ours"]
        rows.append({"name": f"our {part}", "rate": rate, "unit": unit, "ratio": 1.0})
        for name, (_, each) in peers.items():
            peer_rate = each / seconds[name]
            rows.append({"name": name, "rate": peer_rate, "unit": unit, "ratio": rate / peer_rate})
    return rows, missing


def steppers(config: Config) -> Peers:
    """Make a call that steps bare brax, if the task is one of brax's."""
    if config.env not in BRAX_TASKS:
        return {}
    from td3_brax.envs.suppress import suppress_warnings
    from td3_brax.envs.tasks.brax import brax_envs

    with suppress_warnings():
        env = brax_envs.get_environment(config.env, backend=config.backend)
    reset = shards.jit(jax.vmap(env.reset), config.devices, (shards.SPLIT,), shards.SPLIT)
    state = reset(jax.random.split(jax.random.key(0), config.num_envs))
    shape = (STEPS, config.num_envs, env.action_size)
    actions = jax.random.uniform(jax.random.key(1), shape, minval=-1, maxval=1)

    def steps(state: Any, actions: jax.Array) -> Any:
        return jax.lax.scan(lambda c, x: (jax.vmap(env.step)(c, x), None), state, actions)[0]

    jitted = shards.jit(steps, config.devices, (shards.SPLIT, shards.SPLIT_SECOND), shards.SPLIT)
    return {"bare brax": (lambda: jitted(state, actions), STEPS * config.num_envs)}


def updaters(config: Config, task: Task) -> tuple[Peers, list[str]]:
    """Make calls that update the installed TD3s; also return why the others are left out."""
    calls: Peers = {}
    missing = []
    for name, package in (
        ("rejax's TD3", "rejax"),
        ("SBX's TD3", "sbx"),
        ("stable-baselines3's TD3", "stable_baselines3"),
    ):
        try:
            importlib.import_module(package)
        except ImportError as error:
            missing.append(f"{name} ({error})")
            continue
        if package != "rejax":
            calls[name] = library(package, config, task), BLOCK
        elif config.env in BRAX_TASKS:
            calls[f"{name}, {config.capacity:,} stored"] = rejax(config)
        else:
            missing.append(f"{name} (brax's tasks only)")
    return calls, missing


def rejax(config: Config) -> Peer:
    """Make a call that updates rejax's TD3.

    Its replay has the run's capacity, because its rate depends on it, and is filled with noise.
    """
    from td3_brax.commands.bench import peer_rejax

    algorithm = peer_rejax.trainer_for(config, config.capacity)
    state = jax.jit(algorithm.init_state)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(state.replay_buffer.data)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [jax.random.normal(k, x.shape).astype(x.dtype) for k, x in zip(keys, leaves, strict=True)]
    full = state.replay_buffer.replace(data=jax.tree.unflatten(tree, noise), full=True)
    held = [state.replace(replay_buffer=full)]
    cycles = max(BLOCK // config.policy_delay, 1)
    updates = jax.jit(
        lambda state: jax.lax.fori_loop(0, cycles, lambda _, s: peer_rejax.update(algorithm, s), state),
        donate_argnums=0,
    )

    def call() -> Any:
        held[0] = updates(held[0])
        return held[0].rng

    return call, cycles * config.policy_delay


def library(package: str, config: Config, task: Task) -> Callable[[], Any]:
    """Make a call that updates a TD3 with stable-baselines3's interface; its buffer is filled with noise."""
    import gymnasium

    class SizesOnly(gymnasium.Env[Any, Any]):
        """An environment with the task's sizes that is never stepped."""

        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (task.obs_size,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (task.action_size,), np.float32)

        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return np.zeros(task.obs_size, np.float32), {}

    td3 = importlib.import_module(package).TD3
    sizes = {"net_arch": list(config.hidden_sizes)}
    model = td3(
        "MlpPolicy", SizesOnly(), batch_size=config.batch_size, buffer_size=STORED, tau=config.tau,
        gamma=config.gamma, policy_delay=config.policy_delay, policy_kwargs=sizes, seed=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(STORED):
        obs, after = rng.normal(size=(2, 1, task.obs_size)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, task.action_size)).astype(np.float32)
        model.replay_buffer.add(obs, after, action, rng.normal(size=1), np.zeros(1), [{}])
    model._setup_learn(BLOCK)
    if package == "sbx":
        return lambda: model.train(BLOCK, config.batch_size) or model.policy.qf_state.params
    return lambda: model.train(BLOCK, config.batch_size) or jnp.zeros(())
