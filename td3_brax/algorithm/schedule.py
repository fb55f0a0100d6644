"""When steps, updates, refills and reports happen: whole numbers, worked out once from the options."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

from td3_brax.config import MOST, Config
from td3_brax.option import ConfigError

MAX_STEPS_PER_ROUND = 64
REFILL_EVERY = 16


@dataclass(frozen=True)
class Schedule:
    """A chunk is ``groups`` times [refill the reset pool, then ``blocks`` times a block].

    A block is the smallest repeating unit: ``rounds`` times [``steps`` vector steps, then ``updates``
    updates], where ``rounds * updates`` is a whole number of policy delays. Until the actor's next update
    nothing that collects has changed, so updates wait for the round of that one: a block is made in
    ``turns``, each the steps of so many rounds and then all their updates.
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
        """Rounds per block."""
        return sum(self.turns)

    @property
    def updates_together(self) -> int:
        """Updates that a block's first turn makes."""
        return self.turns[0] * self.updates

    @property
    def vector_steps(self) -> int:
        """Vector steps per chunk."""
        return self.groups * self.blocks * self.rounds * self.steps

    @property
    def env_steps(self) -> int:
        """Environment steps per chunk."""
        return self.vector_steps * self.num_envs

    @property
    def total_env_steps(self) -> int:
        """Environment steps of the run."""
        return self.chunks * self.env_steps

    @property
    def total_updates(self) -> int:
        """Updates per chunk."""
        return self.groups * self.blocks * self.rounds * self.updates


def make_schedule(config: Config) -> Schedule:
    """The schedule of ``config``; report and evaluation intervals are rounded to what fits.

    Raises:
        ConfigError: ``updates_per_env_step`` needs more than 64 vector steps to come out whole, or the run
            has more environment steps or updates than 32-bit counters hold.
    """
    per_vector_step = _updates_per_vector_step(config)
    updates, steps = per_vector_step.numerator, per_vector_step.denominator
    rounds = config.policy_delay // math.gcd(updates, config.policy_delay)
    block_steps = rounds * steps

    # Between two refills an environment can be reset once, so refills come at least every
    # REFILL_EVERY vector steps; more often than every half of that would cost more than 3% of stepping.
    most = max(block_steps, min(REFILL_EVERY, config.episode_limit))
    reports = max(1, round(config.report_every / (config.num_envs * block_steps)))
    blocks = 0
    while not blocks:
        fitting = [b for b in range(1, most // block_steps + 1) if reports % b == 0]
        if 2 * max(fitting) > most // block_steps or max(fitting) == reports:
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
    """Raise :class:`ConfigError` where the run's steps or updates pass ``MOST``."""
    each = schedule.env_steps
    if each > MOST:
        name = "report_every" if config.report_every > MOST else "num_envs"
        raise ConfigError(
            name, getattr(config, name), f"makes reports of {each} environment steps; 32 bits count {MOST}"
        )
    if schedule.total_env_steps > MOST:
        raise ConfigError(
            "total_env_steps",
            config.total_env_steps,
            f"must be at most {MOST // each * each}: whole reports of {each} steps, counted in 32 bits",
        )
    updates = schedule.chunks * schedule.total_updates
    if updates > MOST:
        raise ConfigError(
            "updates_per_env_step",
            config.updates_per_env_step,
            f"makes {updates} updates in {schedule.total_env_steps} steps; 32 bits count {MOST}",
        )


def _turns(updates: int, rounds: int, policy_delay: int) -> tuple[int, ...]:
    """How many of the ``rounds`` there are up to each that updates the actor."""
    of_actor = [i * updates // policy_delay for i in range(rounds + 1)]
    ends = [i for i in range(1, rounds + 1) if of_actor[i] > of_actor[i - 1]]
    return tuple(end - begin for begin, end in itertools.pairwise([0, *ends]))


def _updates_per_vector_step(config: Config) -> Fraction:
    """``updates_per_env_step * num_envs`` as a fraction with a denominator of at most 64."""
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
        f"with --num_envs={config.num_envs} the nearest that can be met: {' or '.join(near)}",
    )
