"""``td3-brax dataset RUN``: write a Minari dataset of whole episodes that a saved policy plays."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from td3_brax.cli import fail, guarded
from td3_brax.commands import score
from td3_brax.commands.eval import load, run_parser, summary, task_name
from td3_brax.config import Config
from td3_brax.envs.task import Task
from td3_brax.names import GYMNASIUM_TASKS
from td3_brax.option import ConfigError
from td3_brax.policy import Policy, PolicyError
from td3_brax.runs.device import prepare_jax
from td3_brax.runs.tracking import one_line
from td3_brax.runs.versions import versions

TOGETHER = 256
"""Most episodes that are played at once."""
STEPS = 100
"""Steps between two looks at whether all episodes have ended."""


@dataclass(frozen=True)
class Episode:
    """A whole episode of T steps."""

    obs: np.ndarray
    """[T + 1, O]; the last is the one after the last step."""
    actions: np.ndarray
    """[T, A] in [-1, 1], noise included."""
    rewards: np.ndarray
    """[T]."""
    terminated: bool
    """True if the task ended the episode, false if the time limit truncated it."""


def record(
    task: Task, policy: Policy, episodes: int, time_limit: int, noise: float = 0.0, seed: int = 0
) -> Iterator[Episode | None]:
    """Play whole episodes on the device; yield them in the order of their initial states.

    Args:
        time_limit: environment steps after which an episode is truncated.
        noise: standard deviation of Gaussian noise on the actions in [-1, 1].
        seed: seed of initial states and noise.
    Yields:
        an episode; None for one in which physics, observations or rewards broke.
    """
    import jax
    import jax.numpy as jnp

    from td3_brax.envs.vector import all_finite, select

    def begin(keys: jax.Array) -> Any:
        state, obs = jax.vmap(task.reset)(keys)
        return state, obs, all_finite((state, obs))

    def step(keys: jax.Array, carry: Any, t: jax.Array) -> Any:
        state, obs, alive = carry
        normal = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t + 1), (task.action_size,)))
        action = jnp.clip(policy.forward(obs, jnp) + noise * normal(keys), -1, 1)
        out = jax.vmap(task.step)(state, action)
        finite = all_finite((out.state, out.obs, out.reward))
        made, broken = alive & finite, alive & ~finite
        state, after = select(made, (out.state, out.obs), (state, obs))
        alive = made & ~out.terminated & (t + 1 < time_limit)
        return (state, after, alive), (obs, action, out.reward, after, made, made & out.terminated, broken)

    @jax.jit
    def advance(keys: jax.Array, carry: Any, t: jax.Array) -> Any:
        return jax.lax.scan(lambda c, i: step(keys, c, i), carry, t + jnp.arange(STEPS))

    count = min(episodes, TOGETHER)
    own_key = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))
    begin = jax.jit(begin)
    for first in range(0, episodes, count):
        keys = own_key(first + jnp.arange(count))
        carry = begin(keys)
        intact, parts = np.asarray(carry[2]), []
        for t in range(0, time_limit, STEPS):
            carry, played = advance(keys, carry, jnp.int32(t))
            parts.append(jax.device_get(played))
            if not np.asarray(carry[2]).any():
                break
        obs, action, reward, after, made, terminated, broken = (
            np.concatenate(part).swapaxes(0, 1) for part in zip(*parts, strict=True)
        )
        for i, length in enumerate(made.sum(axis=1)[: episodes - first]):
            whole = intact[i] and not broken[i].any()
            yield (
                Episode(
                    np.concatenate([obs[i, :length], after[i, length - 1 : length]]),
                    action[i, :length],
                    reward[i, :length],
                    bool(terminated[i].any()),
                )
                if whole
                else None
            )


def check_name(name: str) -> Any:
    """Return the folder of the dataset ``name``, which does not exist yet.

    Raises:
        ConfigError: Minari is not installed or refuses the name, or there is such a dataset.
    """
    if any(importlib.util.find_spec(package) is None for package in ("minari", "h5py")):
        why = "needs the packages minari and h5py; install them with: pip install 'td3-brax[minari]'"
        raise ConfigError("minari", name, why)
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage import get_dataset_path

    try:
        parse_dataset_id(name)
    except (ValueError, TypeError):  # TypeError: there is no version
        raise ConfigError(
            "minari", name, "must be NAME-vVERSION or SPACE/NAME-vVERSION, such as ant/td3-v0"
        ) from None
    path = get_dataset_path(name)
    if path.exists():
        raise ConfigError(
            "minari", name, f"{path} exists and is not overwritten; choose another name, or a higher version"
        )
    return path


def write(
    name: str, config: Config, policy: Policy, episodes: Sequence[Episode], about: dict[str, Any]
) -> None:
    """Write the dataset through Minari.

    Args:
        about: further arguments of ``minari.create_dataset_from_buffers``.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    obs_space = gymnasium.spaces.Box(-math.inf, math.inf, policy.obs_mean.shape, np.float32)
    action_space = gymnasium.spaces.Box(policy.action_low, policy.action_high, dtype=np.float32)
    spec = None
    if config.env in GYMNASIUM_TASKS:
        env = score.make(config.env, config)
        spec, obs_space, action_space = env.spec, env.observation_space, env.action_space
        env.close()
    buffers = []
    for number, episode in enumerate(episodes):
        last = np.arange(len(episode.rewards)) == len(episode.rewards) - 1
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=episode.obs.astype(obs_space.dtype),
                actions=policy.in_task_units(episode.actions).astype(action_space.dtype),
                rewards=episode.rewards.astype(np.float64),
                terminations=last & episode.terminated,
                truncations=last & (not episode.terminated),
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of authors and links that were not given
        minari.create_dataset_from_buffers(
            name,
            buffers,
            env=spec,
            observation_space=obs_space,
            action_space=action_space,
            algorithm_name="TD3",
            **about,
        )


def _noise(text: str) -> float:
    """Parse a standard deviation."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text}")
    return value


def job(argv: Sequence[str]) -> int:
    """Play the episodes and write the dataset; return the exit code."""
    parser = run_parser("dataset", __doc__, 100)
    parser.add_argument(
        "--minari", metavar="NAME", required=True, help="name of the new dataset, such as ant/td3-v0"
    )
    parser.add_argument(
        "--noise",
        type=_noise,
        default=0.0,
        metavar="FLOAT",
        help="standard deviation of Gaussian noise on actions in [-1, 1] (default: 0)",
    )
    parser.add_argument("--author", metavar="TEXT", help="author to name in the dataset")
    parser.add_argument("--author_email", metavar="TEXT", help="address to name in the dataset")
    parser.add_argument("--code_permalink", metavar="URL", help="link to the code to name in the dataset")
    args = parser.parse(argv)
    path = check_name(args.minari)
    try:
        config, policy = load(args.run, args.which)
        prepare_jax(config.deterministic, 1)
        from td3_brax.envs.registry import make_task

        task = make_task(config)
        if (task.obs_size,) != policy.obs_mean.shape or (task.action_size,) != policy.action_low.shape:
            raise PolicyError(
                f"{args.run}: the policy's observation and action sizes do not fit {config.env}"
            )
        played = list(record(task, policy, args.episodes, config.time_limit, args.noise, args.seed))
    except PolicyError as error:
        return fail(error)
    whole = [episode for episode in played if episode]
    if not whole:
        return fail(
            f"{args.run}: all {args.episodes} episodes broke (physics or rewards); nothing is written"
        )
    if len(whole) < len(played):
        broke = len(played) - len(whole)
        print(f"warning: {broke} of {args.episodes} episodes broke (physics or rewards) and are left out")
    noise = f"Gaussian noise of {args.noise:g} on actions in [-1, 1]" if args.noise else "no noise"
    steps, version = policy.meta.get("env_steps", 0), versions()["td3-brax"]
    about = {
        "description": f"{task_name(config)}, simulated by td3-brax {version}. The {args.which} policy "
        f"of a TD3 run, after {steps:,} steps, with {noise}; seed {args.seed}.",
        "author": args.author,
        "author_email": args.author_email,
        "code_permalink": args.code_permalink,
    }
    try:
        write(args.minari, config, policy, whole, about)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        return fail(f"--minari={args.minari}: {path} could not be written ({one_line(error)})")
    returns = np.array([episode.rewards.sum(dtype=np.float64) for episode in whole])
    lengths = np.array([len(episode.rewards) for episode in whole])
    print(f"{task_name(config)}, {args.which} policy of {args.run}, {noise}: {summary(returns, lengths)}")
    print(f"saved in {path}; load it with: minari.load_dataset({args.minari!r})")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
