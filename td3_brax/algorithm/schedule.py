"""The schedule of steps, updates, refills and reports: whole numbers, computed once from the options."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

from td3_brax.config import INT32_MAX, Config
from td3_brax.option import ConfigError

MAX_STEPS_PER_ROUND = 64
REFILL_EVERY = 16
"""Most vector steps between two refills of the pool of fresh initial states."""


@dataclass(frozen=True)
class Schedule:
    """The nested loops of a run.

    A chunk is ``groups`` times [refill the fresh initial states, then run ``blocks`` blocks].

    A block is the smallest repeating unit: ``rounds`` times [``steps`` vector steps, then ``updates``
    updates], where ``rounds * updates`` is a multiple of the policy delay. Collecting uses only the actor, so
    critic updates can wait for the round that updates the actor. A block is therefore made in ``turns``:
    each turn makes the vector steps of several rounds, then all the updates of those rounds.
    """

    num_envs: int
    steps: int
    updates: int
    turns: tuple[int, ...]
    blocks: int
    groups: int
    chunks: int
    chunks_per_eval: int

    @property
    def rounds(self) -> int:
        """Number of rounds per block."""
        return sum(self.turns)

    @property
    def updates_together(self) -> int:
        """Number of updates in the first turn of a block."""
        return self.turns[0] * self.updates

    @property
    def vector_steps(self) -> int:
        """Number of vector steps per chunk."""
        return self.groups * self.blocks * self.rounds * self.steps

    @property
    def env_steps(self) -> int:
        """Number of environment steps per chunk."""
        return self.vector_steps * self.num_envs

    @property
    def total_env_steps(self) -> int:
        """Number of environment steps in the run."""
        return self.chunks * self.env_steps

    @property
    def total_updates(self) -> int:
        """Number of updates per chunk."""
        return self.groups * self.blocks * self.rounds * self.updates


def make_schedule(config: Config) -> Schedule:
    """Return the schedule of ``config``. Report and evaluation intervals are rounded.

    Raises:
        ConfigError: ``updates_per_env_step`` gives no whole number of updates within 64 vector steps, or the
            run has more environment steps or updates than a 32-bit counter holds.
    """
    per_vector_step = _updates_per_vector_step(config)
    updates, steps = per_vector_step.numerator, per_vector_step.denominator
    rounds = config.policy_delay // math.gcd(updates, config.policy_delay)
    block_steps = rounds * steps

    # An environment can be reset only once between two refills, so a refill comes at least every
    # REFILL_EVERY vector steps. More than twice as many refills would cost over 3% of stepping.
    max_steps = max(block_steps, min(REFILL_EVERY, config.episode_limit))
    reports = max(1, round(config.report_every / (config.num_envs * block_steps)))
    blocks = 0
    while not blocks:
        fitting = [b for b in range(1, max_steps // block_steps + 1) if reports % b == 0]
        if 2 * max(fitting) > max_steps // block_steps or max(fitting) == reports:
            blocks = max(fitting)
        else:
            reports += 1
    chunk_steps = reports * block_steps * config.num_envs
    schedule = Schedule(
        num_envs=config.num_envs,
        steps=steps,
        updates=updates,
        turns=_turns(updates, rounds, config.policy_delay),
        blocks=blocks,
        groups=reports // blocks,
        chunks=-(-config.total_env_steps // chunk_steps),
        chunks_per_eval=max(1, round(config.eval_every / chunk_steps)),
    )
    _check_counters(config, schedule)
    return schedule


def _check_counters(config: Config, schedule: Schedule) -> None:
    """Raise :class:`ConfigError` if the run has more than ``INT32_MAX`` environment steps or updates."""
    env_steps = schedule.env_steps
    if env_steps > INT32_MAX:
        name = "report_every" if config.report_every > INT32_MAX else "num_envs"
        raise ConfigError(
            name,
            getattr(config, name),
            f"gives {env_steps} environment steps per report; 32 bits count {INT32_MAX}",
        )
    if schedule.total_env_steps > INT32_MAX:
        raise ConfigError(
            "total_env_steps",
            config.total_env_steps,
            f"must be at most {INT32_MAX // env_steps * env_steps}: "
            f"whole reports of {env_steps} steps, counted in 32 bits",
        )
    updates = schedule.chunks * schedule.total_updates
    if updates > INT32_MAX:
        raise ConfigError(
            "updates_per_env_step",
            config.updates_per_env_step,
            f"gives {updates} updates in {schedule.total_env_steps} steps; 32 bits count {INT32_MAX}",
        )


def _turns(updates: int, rounds: int, policy_delay: int) -> tuple[int, ...]:
    """Return the number of rounds in each turn; a turn ends with a round that updates the actor."""
    actor_updates = [i * updates // policy_delay for i in range(rounds + 1)]
    ends = [i for i in range(1, rounds + 1) if actor_updates[i] > actor_updates[i - 1]]
    return tuple(end - begin for begin, end in itertools.pairwise([0, *ends]))


def _updates_per_vector_step(config: Config) -> Fraction:
    """Return ``updates_per_env_step * num_envs`` as a fraction with a denominator of at most 64."""
    exact = config.updates_per_env_step * config.num_envs
    fraction = Fraction(exact).limit_denominator(MAX_STEPS_PER_ROUND)
    if fraction > 0 and abs(float(fraction) - exact) <= 1e-5 * exact:
        return fraction
    denominators = range(1, MAX_STEPS_PER_ROUND + 1)
    below = max(Fraction(math.floor(exact * d), d) for d in denominators)
    above = min(Fraction(math.floor(exact * d) + 1, d) for d in denominators)
    near = [f"{float(f) / config.num_envs:.8g}" for f in (below, above) if f > 0]
    raise ConfigError(
        "updates_per_env_step",
        config.updates_per_env_step,
        f"can't be met with --num_envs={config.num_envs}; the nearest is {' or '.join(near)}",
    )
