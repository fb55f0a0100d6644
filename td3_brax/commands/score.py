"""``td3-brax score RUN``: compare a saved policy's scores in real Gymnasium and on the device."""

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
from td3_brax.commands.eval import interval, load, positive, run_parser, score_on_device, summary, task_name
from td3_brax.config import Config
from td3_brax.envs.suppress import suppress_warnings
from td3_brax.names import BRAX_TASKS, GYMNASIUM_TASKS
from td3_brax.option import ConfigError, nearest
from td3_brax.policy import Policy, PolicyError
from td3_brax.runs.device import cpu_cores


def make(name: str, config: Config) -> Any:
    """Make the Gymnasium environment ``name`` with the run's time limit.

    The run's ``env_args`` are passed on only if ``name`` is the task the run was trained on.
    """
    import gymnasium

    args = json.loads(config.env_args or "{}") if name == config.env else {}
    with suppress_warnings():
        return gymnasium.make(name, max_episode_steps=config.time_limit, **args)


def play(policy: Policy, name: str, config: Config, seeds: Sequence[int]) -> list[tuple[float, int]]:
    """Play one episode per seed, using NumPy and Gymnasium only; return (return, length) of each."""
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


def score_in_gymnasium(
    policy: Policy, name: str, config: Config, episodes: int, seed: int, processes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Play episodes in parallel processes; return their returns and lengths [episodes].

    The initial states follow from ``seed``, whatever the number of processes.
    """
    seeds = np.random.SeedSequence(seed).generate_state(episodes).tolist()
    if processes == 1:
        parts = [play(policy, name, config, seeds)]
    else:
        shares = [seeds[i::processes] for i in range(min(processes, episodes))]
        count = len(shares)
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(play, [policy] * count, [name] * count, [config] * count, shares))
    scores = np.array([score for part in parts for score in part])
    return scores[:, 0], scores[:, 1]


def _not_in_gymnasium(env: str) -> str:
    """Explain that the run's task is not in Gymnasium, and suggest ``--gym`` with a similar one."""
    similar = [name for name in GYMNASIUM_TASKS if name.lower() == f"{env.replace('_', '')}-v4"]
    example = f", for example --gym={similar[0]}" if similar else ""
    return f"is not a Gymnasium task; choose one with --gym{example}"


def job(argv: Sequence[str]) -> int:
    """Print both scores; return the exit code."""
    parser = run_parser("score", __doc__, 100)
    parser.add_argument(
        "--gym", metavar="NAME", help="Gymnasium environment to play (default: the run's task)"
    )
    parser.add_argument(
        "--processes",
        type=positive,
        default=cpu_cores(),
        help=f"processes that play in Gymnasium (default: {cpu_cores()})",
    )
    args = parser.parse(argv)
    try:
        config, policy = load(args.run, args.which)
        gym = args.gym or config.env
        if gym not in GYMNASIUM_TASKS:
            if not args.gym:
                raise PolicyError(f"{args.run}: its task, {gym}, {_not_in_gymnasium(gym)}")
            allowed = f"must be one of {', '.join(GYMNASIUM_TASKS)}{nearest(gym, GYMNASIUM_TASKS)}"
            raise ConfigError("gym", gym, allowed)
        env = make(gym, config)
        sizes = env.observation_space.shape, env.action_space.shape
        env.close()
        if sizes != (policy.obs_mean.shape, policy.action_low.shape):
            raise PolicyError(
                f"{args.run}: the policy takes {policy.obs_mean.size} observations and returns "
                f"{policy.action_low.size} actions; {gym} has {sizes[0][0]} and {sizes[1][0]}"
            )
        real = score_in_gymnasium(policy, gym, config, args.episodes, args.seed, args.processes)
        import gymnasium
        import mujoco

        print(f"{gym}, Gymnasium {gymnasium.__version__}, MuJoCo {mujoco.__version__}: {summary(*real)}")
        simulated = score_on_device(args.run, config, policy, args.episodes, args.seed)
    except PolicyError as error:
        return fail(error)
    print(f"{task_name(config)}, on the device: {summary(*simulated)}")
    if gym != config.env:
        kind = "brax's" if config.env in BRAX_TASKS else "the run's"
        print(f"note: {kind} {config.env} and {gym} are different tasks; do not compare the two scores")
        return 0
    (low, high), (real_low, real_high) = interval(simulated[0]), interval(real[0])
    print(f"the intervals {'overlap' if low <= real_high and real_low <= high else 'do not overlap'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
