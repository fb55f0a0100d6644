"""``td3-brax eval RUN``: score a saved policy greedily over many episodes on the device."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from td3_brax.cli import Parser, fail, guarded, load_config, whole
from td3_brax.config import resolve
from td3_brax.policy import PolicyError, load_policy


def job(argv: Sequence[str]) -> int:
    """Print mean, deviation and a 95% interval of the return; returns the exit code."""
    parser = Parser(prog="td3-brax eval", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--episodes", type=whole, default=128, help="episodes to play (default: 128)")
    parser.add_argument("--seed", type=whole, default=0, help="of the initial states (default: 0)")
    parser.add_argument("--which", choices=("best", "last"), default="best", help="policy (default: best)")
    args = parser.parse(argv)
    if args.episodes < 1:
        return fail(f"--episodes={args.episodes}: must be above 0")
    config = resolve(load_config(f"{args.run}/config.json"), "cpu")
    try:
        policy = load_policy(args.run, args.which)
    except PolicyError as error:
        return fail(error)
    if policy.env != config.env:
        return fail(f"{args.run}: its policy is for {policy.env}, its config.json says {config.env}")

    from td3_brax.device import prepare_jax

    prepare_jax(config.deterministic, config.devices)
    import jax
    import jax.numpy as jnp

    from td3_brax import shards
    from td3_brax.envs.brax import BraxTask
    from td3_brax.evaluate import greedy_returns

    task = BraxTask(config.env, config.backend)
    if (task.obs_size,) != policy.obs_mean.shape or (task.action_size,) != policy.action_low.shape:
        return fail(f"{args.run}: its policy's sizes are not those of {config.env}")

    def play(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        return greedy_returns(task, lambda obs: policy.forward(obs, jnp), keys, config.time_limit)

    devices = min(config.devices, len(jax.devices()))
    keys = jax.random.split(jax.random.key(args.seed), -(-args.episodes // devices) * devices)
    score = shards.jit(play, devices, (shards.SPLIT,), shards.SPLIT)
    returns, lengths = (x[: args.episodes] for x in jax.device_get(score(keys)))
    mean, std = float(returns.mean()), float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    half = 1.96 * std / len(returns) ** 0.5
    print(
        f"{config.env} ({config.backend}), {args.which} policy of {args.run}: "
        f"return {mean:,.1f} +- {std:,.1f}, 95% interval [{mean - half:,.1f}, {mean + half:,.1f}], "
        f"length {lengths.mean():,.0f}, {args.episodes} episodes"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
