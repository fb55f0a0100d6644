"""``td3-brax eval RUN``: score a saved policy greedily over many episodes on the device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from td3_brax.cli import Parser, fail, guarded, load_config, whole
from td3_brax.config import Config
from td3_brax.names import BRAX_TASKS
from td3_brax.policy import Policy, PolicyError, load_policy
from td3_brax.presets import resolve
from td3_brax.runs.device import prepare_jax
from td3_brax.runs.formatting import counted, number


def load(run: str, which: str) -> tuple[Config, Policy]:
    """The options and the policy of the run in folder ``run``.

    Raises:
        ConfigError: the options can't be read.
        PolicyError: the policy can't, or is another task's.
    """
    config = resolve(load_config(f"{run}/config.json"), "cpu")
    policy = load_policy(run, which)
    if policy.env != config.env:
        raise PolicyError(f"{run}: its policy is for {policy.env}, its config.json says {config.env}")
    return config, policy


def on_device(
    run: str, config: Config, policy: Policy, episodes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of the ``policy`` of ``run`` on its task, as training has it.

    They are of ``episodes``, less those in which something broke.

    Raises:
        PolicyError: its sizes are not the task's, or something broke in all.
    """
    prepare_jax(config.deterministic, config.devices)
    import jax
    import jax.numpy as jnp

    from td3_brax.algorithm import shards
    from td3_brax.algorithm.evaluate import greedy_returns
    from td3_brax.envs.registry import make_task

    task = make_task(config)
    if (task.obs_size,) != policy.obs_mean.shape or (task.action_size,) != policy.action_low.shape:
        raise PolicyError(f"{run}: its policy's sizes are not those of {config.env}")

    def play(keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        scores = greedy_returns(task, lambda obs: policy.forward(obs, jnp), keys, config.time_limit)
        return scores.returns, scores.lengths, scores.broken

    devices = min(config.devices, len(jax.devices()))
    keys = jax.random.split(jax.random.key(seed), -(-episodes // devices) * devices)
    score = shards.jit(play, devices, (shards.SPLIT,), shards.SPLIT)
    returns, lengths, broken = (x[:episodes] for x in jax.device_get(score(keys)))
    if broken.all():
        raise PolicyError(f"{run}: none of {episodes} episodes is whole: physics or rewards broke in each")
    if broken.any():
        print(f"warning: {broken.sum()} of {episodes} episodes broke (physics or rewards) and are left out")
    return returns[~broken], lengths[~broken]


def summary(returns: np.ndarray, lengths: np.ndarray) -> str:
    """Mean, deviation and a 95% interval of returns [episodes]."""
    values = float(returns.mean()), deviation(returns), *interval(returns)
    mean, std, low, high = (number(value, values, min_decimals=1) for value in values)
    return (
        f"return {mean} +- {std}, 95% interval [{low}, {high}], length {lengths.mean():,.0f}, "
        f"{counted(len(returns), 'episode')}"
    )


def deviation(returns: np.ndarray) -> float:
    """Of a sample [episodes]; 0 for a single one."""
    return float(returns.std(ddof=1)) if len(returns) > 1 else 0.0


def interval(returns: np.ndarray) -> tuple[float, float]:
    """95% interval of the mean of returns [episodes], by the normal distribution."""
    half = 1.96 * deviation(returns) / len(returns) ** 0.5
    return float(returns.mean()) - half, float(returns.mean()) + half


def run_parser(command: str, description: str | None, episodes: int, of_what: str = "") -> Parser:
    """The options that commands about a saved policy share."""
    parser = Parser(prog=f"td3-brax {command}", description=description)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument(
        "--episodes",
        type=above_zero,
        default=episodes,
        help=of_what or f"episodes to play (default: {episodes})",
    )
    parser.add_argument("--seed", type=whole, default=0, help="of the initial states (default: 0)")
    parser.add_argument("--which", choices=("best", "last"), default="best", help="policy (default: best)")
    return parser


def above_zero(text: str) -> int:
    """A number of episodes or processes."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def job(argv: Sequence[str]) -> int:
    """Print mean, deviation and a 95% interval of the return; returns the exit code."""
    args = run_parser("eval", __doc__, 128).parse(argv)
    try:
        config, policy = load(args.run, args.which)
        returns, lengths = on_device(args.run, config, policy, args.episodes, args.seed)
    except PolicyError as error:
        return fail(error)
    print(f"{named(config)}, {args.which} policy of {args.run}: {summary(returns, lengths)}")
    return 0


def named(config: Config) -> str:
    """The task, and for brax's its backend."""
    return f"{config.env} ({config.backend})" if config.env in BRAX_TASKS else config.env


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
