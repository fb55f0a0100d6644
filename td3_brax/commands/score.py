"""``td3-brax score RUN``: play a saved policy in the real Gymnasium environment, beside the device's own."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from td3_brax.cli import fail, guarded
from td3_brax.commands.eval import above_zero, interval, load, named, on_device, run_parser, summary
from td3_brax.config import Config
from td3_brax.envs.suppress import quiet
from td3_brax.names import BRAX_TASKS, GYMNASIUM_TASKS
from td3_brax.option import ConfigError, nearest
from td3_brax.policy import Policy, PolicyError
from td3_brax.runs.device import cpu_cores


def make(name: str, config: Config) -> Any:
    """The Gymnasium environment ``name`` with a run's time limit and, where it is its task, its arguments."""
    import gymnasium

    args = json.loads(config.env_args or "{}") if name == config.env else {}
    with quiet():
        return gymnasium.make(name, max_episode_steps=config.time_limit, **args)


def play(policy: Policy, name: str, config: Config, seeds: Sequence[int]) -> list[tuple[float, int]]:
    """Return and length of an episode for each of ``seeds``, with NumPy and Gymnasium alone."""
    env = make(name, config)
    policy = replace(policy, action_low=env.action_space.low, action_high=env.action_space.high)
    scores = []
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        total, length, ended = 0.0, 0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(policy.predict(obs)[0])
            total, length, ended = total + float(reward), length + 1, terminated or truncated
        scores.append((total, length))
    env.close()
    return scores


def in_gymnasium(
    policy: Policy, name: str, config: Config, episodes: int, seed: int, processes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths [episodes] in :func:`make`'s environment, whatever the number of processes."""
    seeds = np.random.SeedSequence(seed).generate_state(episodes).tolist()
    if processes == 1:
        parts = [play(policy, name, config, seeds)]
    else:
        shares = [seeds[i::processes] for i in range(min(processes, episodes))]
        count = len(shares)
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(play, [policy] * count, [name] * count, [config] * count, shares))
    every = np.array([score for part in parts for score in part])
    return every[:, 0], every[:, 1]


def _unknown(env: str) -> str:
    """What to say where a run's own task is not in Gymnasium."""
    alike = [name for name in GYMNASIUM_TASKS if name.lower() == f"{env.replace('_', '')}-v4"]
    return "is no task of Gymnasium's: say which to play" + (f", such as --gym={alike[0]}" if alike else "")


def job(argv: Sequence[str]) -> int:
    """Print both scores; returns the exit code."""
    parser = run_parser("score", __doc__, 100)
    parser.add_argument("--gym", metavar="NAME", help="Gymnasium's environment (default: the run's own)")
    parser.add_argument(
        "--processes", type=above_zero, default=cpu_cores(), help=f"that play (default: {cpu_cores()})"
    )
    args = parser.parse(argv)
    try:
        config, policy = load(args.run, args.which)
        gym = args.gym or config.env
        if gym not in GYMNASIUM_TASKS:
            allowed = f"must be one of {', '.join(GYMNASIUM_TASKS)}{nearest(gym, GYMNASIUM_TASKS)}"
            raise ConfigError("gym", gym, allowed if args.gym else _unknown(gym))
        env = make(gym, config)
        sizes = env.observation_space.shape, env.action_space.shape
        env.close()
        if sizes != (policy.obs_mean.shape, policy.action_low.shape):
            raise PolicyError(
                f"{args.run}: its policy takes {policy.obs_mean.size} observations and gives "
                f"{policy.action_low.size} actions; {gym} has {sizes[0][0]} and {sizes[1][0]}"
            )
        real = in_gymnasium(policy, gym, config, args.episodes, args.seed, args.processes)
        import gymnasium
        import mujoco

        print(f"{gym}, Gymnasium {gymnasium.__version__}, MuJoCo {mujoco.__version__}: {summary(*real)}")
        ours = on_device(args.run, config, policy, args.episodes, args.seed)
    except PolicyError as error:
        return fail(error)
    print(f"{named(config)}, on the device: {summary(*ours)}")
    if gym != config.env:
        kind = "brax's" if config.env in BRAX_TASKS else "the run's"
        print(f"note: {kind} {config.env} is another task than {gym}; the two numbers do not compare")
        return 0
    (low, high), (their_low, their_high) = interval(ours[0]), interval(real[0])
    print(f"the intervals {'overlap' if low <= their_high and their_low <= high else 'do not overlap'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
