"""Steps/s of a task through each interface to other libraries, as shares of the task's own ``VectorEnv``.

``python tests/bench/interfaces.py InvertedPendulum-v5 HalfCheetah-v5 Ant-v5 ant [--envs 1024] [--rounds 7]``.
The four take turns, round by round, so a busy machine slows them alike; the shares count, not the rates.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from td3_brax.runs.device import prepare_jax

prepare_jax(devices=1)

import jax
import jax.numpy as jnp
import numpy as np

from td3_brax.algorithm.schedule import REFILL_EVERY
from td3_brax.envs.interfaces import gymnasium
from td3_brax.envs.interfaces.brax import BraxEnv
from td3_brax.envs.interfaces.gymnax import GymnaxEnv
from td3_brax.envs.registry import make_task
from td3_brax.envs.suppress import suppress_output
from td3_brax.envs.vector import VectorEnv
from td3_brax.presets import resolve

with suppress_output():
    from brax.envs import training

LIMIT, STEPS = 1000, 32
"""Time limit; vector steps in a round."""


def scanned(step: Callable[[Any, jax.Array], Any], start: Any) -> Callable[[], None]:
    """Return a call that makes ``STEPS`` steps in one program, from where the last call ended."""
    run = jax.jit(
        lambda state, first: jax.lax.scan(
            lambda carry, i: (step(carry, i), None), state, first + jnp.arange(STEPS)
        )[0]
    )
    kept = [start, 0]

    def call() -> None:
        kept[0] = jax.block_until_ready(run(kept[0], kept[1]))
        kept[1] += STEPS

    return call


def calls(name: str, count: int) -> dict[str, Callable[[], None]]:
    """Return a call for each interface, each of which steps ``count`` environments ``STEPS`` times."""
    key = jax.random.key(0)
    keys = jax.random.split(jax.random.PRNGKey(0), count)  # brax's wrappers take the older kind
    task = make_task(resolve({"env": name}, "cpu"))  # once, since tracing MJX takes seconds
    env = gymnasium.VectorEnv(task, count, LIMIT)
    inside = jax.random.uniform(key, (STEPS, count, task.action_size), minval=-1, maxval=1)

    bare = VectorEnv(task, count, LIMIT)

    def step_bare(state: Any, i: jax.Array) -> Any:
        now = jax.random.fold_in(key, i)
        state = jax.lax.cond(i % REFILL_EVERY == 0, lambda s: bare.refill(s, now), lambda s: s, state)
        return bare.step(state, inside[i % STEPS])[0]

    brax = training.wrap(BraxEnv(task), episode_length=LIMIT)
    gymnax = GymnaxEnv(task, LIMIT)

    def step_gymnax(state: Any, i: jax.Array) -> Any:
        now = jax.random.split(jax.random.fold_in(key, i), count)
        return jax.vmap(gymnax.step)(now, state, inside[i % STEPS])[1]

    low, high = env.single_action_space.low, env.single_action_space.high
    actions = np.asarray(low + (inside + 1) / 2 * (high - low))
    env.reset(seed=0)

    def step_gymnasium() -> None:
        for action in actions:
            env.step(action)

    return {
        "VectorEnv": scanned(step_bare, jax.jit(bare.init)(key)),
        "brax": scanned(lambda state, i: brax.step(state, inside[i % STEPS]), jax.jit(brax.reset)(keys)),
        "gymnax": scanned(step_gymnax, jax.jit(jax.vmap(gymnax.reset))(keys)[1]),
        "gymnasium": step_gymnasium,
    }


def main() -> None:
    """Print a table: the median share of each interface over the rounds, with the least and the greatest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--envs", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(f"{args.envs} environments, {args.rounds} rounds of {STEPS} steps")
    print("| task | VectorEnv, steps/s | brax | gymnax | gymnasium |\n|---|---|---|---|---|")
    for name in args.tasks:
        of = calls(name, args.envs)
        for call in of.values():
            call()
        rates: dict[str, list[float]] = {kind: [] for kind in of}
        for _ in range(args.rounds):
            for kind, call in of.items():
                before = time.perf_counter()
                call()
                rates[kind].append(STEPS * args.envs / (time.perf_counter() - before))
        cells = [f"{np.median(rates['VectorEnv']):,.0f}"]
        for kind in list(of)[1:]:
            share = np.array(rates[kind]) / np.array(rates["VectorEnv"])
            cells.append(f"{np.median(share):.2f} ({share.min():.2f} to {share.max():.2f})")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
