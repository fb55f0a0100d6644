"""Updates per second of the jitted TD3 update, beside eager PyTorch and the machine's matrix products.

Everything in one process and in turn, medians over repeats: 256-256 networks, batch 256, 27
observations, 8 actions, policy delay 2 (``quick``: its own delay and atoms). The products are those of one
update, nothing else, in float32.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax import shards
from td3_brax.config import Config
from td3_brax.device import platform, prepare_jax
from td3_brax.learner import TD3
from td3_brax.networks import Actor, Critic
from td3_brax.population import make_hyper
from td3_brax.presets import resolve
from td3_brax.state import Batch

OBS, ACTION, HIDDEN, BATCH, BLOCK, REPEATS = 27, 8, (256, 256), 256, 64, 7


def ours(
    compute_dtype: str, num_atoms: int = 1, policy_delay: int = 2, devices: int = 1
) -> Callable[[], None]:
    """64 updates in one call; on more devices each takes a part of every batch."""
    actor = Actor(HIDDEN, ACTION, compute_dtype)
    td3 = TD3(actor, Critic(HIDDEN, 2, num_atoms, compute_dtype), policy_delay, devices)
    hyper = make_hyper(Config())
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(BLOCK, BATCH, *shape)), jnp.float32)

    ones = jnp.ones((BLOCK, BATCH))
    batches = Batch(normal(OBS), jnp.tanh(normal(ACTION)), normal(), normal(OBS), 0 * ones, ones)

    def run(learner: Any, batches: Batch, noise: jax.Array) -> Any:
        return td3.update_block(learner, hyper, batches, noise, True)

    specs = (shards.ALIKE, shards.SPLIT_SECOND, shards.SPLIT_SECOND)
    update = shards.jit(run, devices, specs, shards.ALIKE, donate_argnums=(0,))
    learner, noise = [td3.init(jax.random.key(0), OBS, ACTION)], normal(ACTION)

    def call() -> None:
        learner[0], stats = update(learner[0], batches, noise)
        jax.block_until_ready(stats)

    return call


def products() -> Callable[[], None]:
    """Only the matrix products of 64 updates, of the same shapes, each by the library's own routine."""

    def layers(inputs: int, outputs: int) -> list[tuple[int, int]]:
        return [(inputs, HIDDEN[0]), (HIDDEN[0], HIDDEN[1]), (HIDDEN[1], outputs)]

    critic, actor = layers(OBS + ACTION, 1), layers(OBS, ACTION)
    forward = [(BATCH, i, o) for i, o in critic]
    weights = [(i, BATCH, o) for i, o in critic]
    inputs = [(BATCH, o, i) for i, o in critic]
    actor_forward = [(BATCH, i, o) for i, o in actor]
    actor_weights = [(i, BATCH, o) for i, o in actor]
    actor_inputs = [(BATCH, o, i) for i, o in actor]
    shapes = 2 * (actor_forward + 2 * forward)  # targets, for two updates
    shapes += 2 * 2 * (forward + weights + inputs[1:])  # both critics
    shapes += actor_forward + actor_weights + actor_inputs[1:] + forward + inputs  # one actor update
    operands = [(jnp.ones((m, k)), jnp.ones((k, n))) for m, k, n in shapes]

    def body(carry: list, _: None) -> tuple[list, list]:
        # A barrier ties each product to the loop, so that none is taken out of it or merged.
        carry = jax.lax.optimization_barrier(carry)
        return carry, [(a @ b)[0, 0] for a, b in carry]

    run = jax.jit(lambda x: jax.lax.scan(body, x, length=BLOCK // 2)[1])
    return lambda: jax.block_until_ready(run(operands)) and None


def pytorch() -> Callable[[], None] | None:
    """An eager PyTorch TD3 of the same sizes, as one writes it: 64 updates."""
    try:
        import torch
        from torch import nn
    except ImportError:
        return None
    torch.manual_seed(0)

    def mlp(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(i, HIDDEN[0]), nn.ReLU(), nn.Linear(*HIDDEN), nn.ReLU(), nn.Linear(HIDDEN[1], o)
        )

    actor, critics = mlp(OBS, ACTION), nn.ModuleList([mlp(OBS + ACTION, 1) for _ in range(2)])
    actor_target, critic_targets = copy.deepcopy(actor), copy.deepcopy(critics)
    actor_adam = torch.optim.Adam(actor.parameters(), lr=1e-3)
    critic_adam = torch.optim.Adam(critics.parameters(), lr=1e-3)
    obs, next_obs = torch.randn(BATCH, OBS), torch.randn(BATCH, OBS)
    action, reward = torch.tanh(torch.randn(BATCH, ACTION)), torch.randn(BATCH, 1)

    def call() -> None:
        for i in range(BLOCK):
            with torch.no_grad():
                noise = (torch.randn_like(action) * 0.2).clamp(-0.5, 0.5)
                a2 = (torch.tanh(actor_target(next_obs)) + noise).clamp(-1, 1)
                x2 = torch.cat([next_obs, a2], 1)
                y = reward + 0.99 * torch.min(*(c(x2) for c in critic_targets))
            x = torch.cat([obs, action], 1)
            loss = sum(nn.functional.mse_loss(c(x), y) for c in critics)
            critic_adam.zero_grad()
            loss.backward()
            critic_adam.step()
            if i % 2:
                actor_loss = -critics[0](torch.cat([obs, torch.tanh(actor(obs))], 1)).mean()
                actor_adam.zero_grad()
                actor_loss.backward()
                actor_adam.step()
                with torch.no_grad():
                    for net, target in ((actor, actor_target), (critics, critic_targets)):
                        for p, t in zip(net.parameters(), target.parameters(), strict=True):
                            t.mul_(0.995).add_(0.005 * p)

    return call


def main() -> None:
    """Print the table."""
    prepare_jax()
    quick = resolve({}, platform())
    contenders = {
        "td3-brax": ours("float32"),
        "td3-brax, bfloat16": ours("bfloat16"),
        "td3-brax, 2 devices": ours("float32", devices=2),
        "and bfloat16": ours("bfloat16", devices=2),
        "td3-brax, quick": ours(quick.compute_dtype, quick.num_atoms, quick.policy_delay, quick.devices),
        "matrix products": products(),
    }
    if (peer := pytorch()) is not None:
        contenders["PyTorch, eager"] = peer
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(REPEATS + 1):
        for name, call in contenders.items():
            began = time.perf_counter()
            call()
            if repeat:
                times[name].append(time.perf_counter() - began)
    rates = {name: BLOCK / statistics.median(t) for name, t in times.items()}
    beside = [name for name in rates if not name.startswith(("td3-brax", "and"))]
    print(f"{'':<20} updates/s" + "".join(f"{'/ ' + name:>18}" for name in beside))
    for name, rate in rates.items():
        print(f"{name:<20} {rate:9.0f}" + "".join(f"{rate / rates[other]:18.2f}" for other in beside))


if __name__ == "__main__":
    main()
