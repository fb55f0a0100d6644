"""``td3-brax eval RUN``: score a saved policy over many greedy episodes on the device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from td3_brax.cli import Parser, fail, guarded, load_config, whole_number
from td3_brax.config import Config
from td3_brax.names import BRAX_TASKS
from td3_brax.policy import Policy, PolicyError, load_policy
from td3_brax.presets import resolve
from td3_brax.runs.device import prepare_jax
from td3_brax.runs.formatting import counted, number


def load(run: str, which: str) -> tuple[Config, Policy]:
    """Load the options and the policy (``best``, ``last`` or ``early``) from the run's folder.

    Raises:
        ConfigError: the options can't be read.
        PolicyError: the folder contains no run, the policy can't be read, or it was trained on another task.
    """
    if not Path(run, "config.json").is_file():
        raise PolicyError(f"{run}: this folder contains no run (no config.json)")
    config = resolve(load_config(f"{run}/config.json"), "cpu")
    policy = load_policy(run, which)
    if policy.env != config.env:
        raise PolicyError(f"{run}: the policy was trained on {policy.env}, but config.json says {config.env}")
    return config, policy


def score_on_device(
    run: str, config: Config, policy: Policy, episodes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Play greedy episodes on the task as training simulates it; return their returns and lengths.

    Episodes in which physics or rewards broke are left out of both arrays.

    Raises:
        PolicyError: the policy's sizes do not fit the task, or every episode broke.
    """
    prepare_jax(config.deterministic, config.devices)
    import jax
    import jax.numpy as jnp

    from td3_brax.algorithm import shards
    from td3_brax.algorithm.evaluate import greedy_returns
    from td3_brax.envs.registry import make_task

    task = make_task(config)
    if (task.obs_size,) != policy.obs_mean.shape or (task.action_size,) != policy.action_low.shape:
        raise PolicyError(f"{run}: the policy's observation and action sizes do not fit {config.env}")

    def play(keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        scores = greedy_returns(task, lambda obs: policy.forward(obs, jnp), keys, config.time_limit)
        return scores.returns, scores.lengths, scores.broken

    devices = min(config.devices, len(jax.devices()))
    keys = jax.random.split(jax.random.key(seed), -(-episodes // devices) * devices)
    score = shards.jit(play, devices, (shards.SPLIT,), shards.SPLIT)
    returns, lengths, broken = (x[:episodes] for x in jax.device_get(score(keys)))
    if broken.all():
        raise PolicyError(f"{run}: all {episodes} episodes broke (physics or rewards), so there is no score")
    if broken.any():
        print(f"warning: {broken.sum()} of {episodes} episodes broke (physics or rewards) and do not count")
    return returns[~broken], lengths[~broken]


def summary(returns: np.ndarray, lengths: np.ndarray) -> str:
    """Format the mean, standard deviation and 95% interval of the returns, and the mean length.

    Both arrays have shape [episodes].
    """
    values = float(returns.mean()), deviation(returns), *interval(returns)
    mean, std, low, high = (number(value, values, min_decimals=1) for value in values)
    return (
        f"return {mean} +- {std}, 95% interval [{low}, {high}], length {lengths.mean():,.0f}, "
        f"{counted(len(returns), 'episode')}"
    )


def deviation(returns: np.ndarray) -> float:
    """Return the sample's standard deviation [episodes]; 0 for a single episode."""
    return float(returns.std(ddof=1)) if len(returns) > 1 else 0.0


def interval(returns: np.ndarray) -> tuple[float, float]:
    """Return the 95% confidence interval of the mean return [episodes], by the normal approximation."""
    half = 1.96 * deviation(returns) / len(returns) ** 0.5
    return float(returns.mean()) - half, float(returns.mean()) + half


def run_parser(
    command: str,
    description: str | None,
    episodes: int,
    episodes_help: str = "",
    run_help: str = "folder of the run",
) -> Parser:
    """Make a parser with the options that commands about a saved policy share."""
    parser = Parser(prog=f"td3-brax {command}", description=description)
    parser.add_argument("run", help=run_help)
    parser.add_argument(
        "--episodes",
        type=positive,
        default=episodes,
        help=episodes_help or f"episodes to play (default: {episodes})",
    )
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="seed of the initial states (default: 0)"
    )
    parser.add_argument(
        "--which",
        choices=("best", "last", "early"),
        default="best",
        help="which saved policy (default: best)",
    )
    return parser


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    value = whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def job(argv: Sequence[str]) -> int:
    """Print the mean, standard deviation and 95% interval of the return; return the exit code."""
    args = run_parser("eval", __doc__, 128).parse(argv)
    try:
        config, policy = load(args.run, args.which)
        returns, lengths = score_on_device(args.run, config, policy, args.episodes, args.seed)
    except PolicyError as error:
        return fail(error)
    print(f"{task_name(config)}, {args.which} policy of {args.run}: {summary(returns, lengths)}")
    return 0


def task_name(config: Config) -> str:
    """Return the task's name, with the physics backend for brax's tasks."""
    return f"{config.env} ({config.backend})" if config.env in BRAX_TASKS else config.env


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
