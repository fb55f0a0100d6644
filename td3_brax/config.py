"""The options: a frozen dataclass, and the checks that need nothing but the options.

This is the single source for the command line, the config file, a run's ``config.json``, sweep keys
and the option tables in the docs.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from td3_brax.names import BACKENDS, BRAX_TASKS, GYMNASIUM_TASKS, OWN, PHYSICS, PLAYGROUND, PRESETS
from td3_brax.option import ConfigError, check_field, option

MOST = 2**31 - 1
"""Counters and seeds are 32-bit on the device."""
FEWEST_ATOMS = 15
"""With fewer, a histogram's mean is off by more than a thousandth of its target (``values.py``)."""


@dataclass(frozen=True)
class Config:
    """One run. Options that vary may differ between the members of one program; the rest shapes it."""

    preset: str = option("quick", "run", "named set of defaults", choices=PRESETS, varies=True)
    seed: int = option(0, "run", "every random number follows from it", at_least=0, at_most=MOST, varies=True)
    total_env_steps: int = option(
        1_000_000,
        "run",
        "length of the run, in environment steps; rounded up to a whole report",
        above=0,
        at_most=MOST,
        may_change=True,
        varies=True,
    )
    out: str = option("", "run", "folder of the run (empty: runs/<env>-<preset>-s<seed>-<time>)", varies=True)
    devices: int = option(
        1,
        "run",
        "devices that share environments, replay and batches (all: what is there, on a CPU its cores)",
        at_least=0,
        words={"all": 0},
    )
    deterministic: bool = option(
        False, "run", "same numbers bit for bit on a GPU too, slower (a CPU run always has them)"
    )

    env: str = option(
        "ant",
        "task",
        "the task: brax's, Gymnasium's (-v), MuJoCo Playground's, or one of your own",
        choices=BRAX_TASKS + GYMNASIUM_TASKS,
        patterns={f"{PLAYGROUND}NAME": re.compile(f"{PLAYGROUND}.*"), "MODULE:NAME": OWN},
    )
    env_args: str = option(
        "", "task", 'the task\'s own arguments, such as {"ctrl_cost_weight": 0.1}', mapping=True
    )
    backend: str = option("mjx", "task", "physics of a brax task", choices=BACKENDS)
    physics: str = option(
        "auto",
        "task",
        "of Gymnasium's tasks and brax's on mjx: our own (fast), MJX's, or fast where covered (auto)",
        choices=PHYSICS,
    )
    num_envs: int = option(128, "task", "environments that step together", above=0)
    time_limit: int = option(
        1000, "task", "steps after which an episode is truncated (and bootstrapped)", above=0, at_most=MOST
    )
    collect_time_limit: int = option(
        0,
        "task",
        "the same while collecting, where that is sooner, for more experience of initial states (0: never)",
        at_least=0,
        at_most=MOST,
    )
    spread_phases: bool = option(
        False, "task", "first episodes start at random steps, so that time limits do not coincide"
    )

    updates_per_env_step: float = option(
        1.0,
        "replay",
        "critic updates per environment step, however many run in parallel",
        above=0,
        at_most=1000,
    )
    batch_size: int = option(256, "replay", "transitions per update", above=0)
    replay_capacity: int = option(
        1_000_000, "replay", "transitions kept; rounded up to a whole vector step", above=0
    )
    warmup_env_steps: int = option(
        1000,
        "replay",
        "first environment steps, with uniform actions",
        at_least=0,
        at_most=MOST,
        varies=True,
    )
    update_during_warmup: bool = option(
        True,
        "replay",
        "update after each step from the first on, rather than after the warm-up only",
        varies=True,
    )

    hidden_sizes: tuple[int, ...] = option(
        (256, 256), "networks", "units of each hidden layer, actor and critics", above=0
    )
    critic: str = option(
        "mlp",
        "networks",
        "the critics' network: layers of hidden_sizes, or one of your own, made with hidden_sizes, outputs "
        "and compute_dtype",
        choices=("mlp",),
        patterns={"MODULE:NAME": OWN},
    )
    critic_action_scale: float = option(
        1.0,
        "networks",
        "critics see actions in [-1, 1] times this (the paper's see the task's own)",
        above=0,
    )
    num_atoms: int = option(
        1, "networks", "atoms of the critics' value distribution (1: a number, as in the paper)", above=0
    )
    compute_dtype: str = option(
        "float32",
        "networks",
        "operands of the products between hidden layers; parameters and sums stay float32",
        choices=("float32", "bfloat16"),
    )
    normalize_obs: bool = option(False, "networks", "scale observations by their running mean and deviation")

    n_step: int = option(1, "TD3", "steps of reward in a target before the critics' value", above=0)
    gamma: float = option(0.99, "TD3", "discount per step", at_least=0, at_most=1, varies=True)
    tau: float = option(
        0.005, "TD3", "step of the targets' Polyak averaging", above=0, at_most=1, varies=True
    )
    actor_lr: float = option(1e-3, "TD3", "Adam step size of the actor", above=0, varies=True)
    critic_lr: float = option(1e-3, "TD3", "Adam step size of the critics", above=0, varies=True)
    lr_decay: float = option(
        0.0,
        "TD3",
        "share of both step sizes lost by the end of the run, linearly",
        at_least=0,
        at_most=1,
        varies=True,
    )
    exploration_noise: float = option(
        0.1, "TD3", "standard deviation of the Gaussian noise on actions in [-1, 1]", at_least=0, varies=True
    )
    exploration_noise_spread: float = option(
        0.0,
        "TD3",
        "added to it, from 0 for the first environment to this for the last",
        at_least=0,
        varies=True,
    )
    target_noise: float = option(
        0.2, "TD3", "standard deviation of the target policy's noise", at_least=0, varies=True
    )
    target_noise_clip: float = option(0.5, "TD3", "that noise is clipped to +- this", at_least=0, varies=True)
    policy_delay: int = option(
        2, "TD3", "critic updates per update of actor and targets", above=0, at_most=64
    )
    num_critics: int = option(
        2, "TD3", "critics whose minimum is the target (1: no clipped double Q)", above=0, at_most=2
    )

    report_every: int = option(
        5000,
        "evaluation",
        "environment steps between reports; rounded to whole rounds of steps and updates",
        above=0,
    )
    eval_every: int = option(
        5000,
        "evaluation",
        "environment steps between evaluations; rounded to whole reports",
        above=0,
        may_change=True,
    )
    eval_episodes: int = option(
        10, "evaluation", "episodes of each greedy evaluation", above=0, may_change=True
    )
    eval_tau: float = option(
        1.0,
        "evaluation",
        "step of the actor's Polyak averaging for evaluations and saved policies (1: the actor itself)",
        above=0,
        at_most=1,
        varies=True,
    )

    wandb: str = option(
        "disabled",
        "saving",
        "Weights & Biases, in project WANDB_PROJECT (online by default for runs that a sweep starts)",
        choices=("online", "offline", "disabled"),
        may_change=True,
        varies=True,
    )
    film: bool = option(
        False,
        "saving",
        "a film of the policy at the end, as `td3-brax render` makes it",
        may_change=True,
        varies=True,
    )
    checkpoint_every_min: float = option(
        5.0,
        "saving",
        "minutes between checkpoints, and one at the end (0: none)",
        at_least=0,
        may_change=True,
        varies=True,
    )
    checkpoint_keep: int = option(
        2, "saving", "newest checkpoints that are kept while training", above=0, may_change=True, varies=True
    )
    checkpoint_replay: bool = option(
        True,
        "saving",
        "checkpoints hold the replay; without it they are small and not exact",
        may_change=True,
        varies=True,
    )
    on_nonfinite: str = option(
        "stop",
        "saving",
        "what follows a gradient that is not finite: the updates of the same vector steps are not made",
        choices=("stop", "skip"),
        may_change=True,
        varies=True,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_field(field, getattr(self, field.name))
        if self.batch_size > self.capacity:
            raise ConfigError(
                "batch_size",
                self.batch_size,
                f"must be at most the replay's capacity, {self.capacity} (--replay_capacity)",
            )

        if self.env in BRAX_TASKS:
            if self.env_args:
                raise ConfigError("env_args", self.env_args, f"brax's {self.env} takes none")
        elif self.backend != "mjx":
            raise ConfigError("backend", self.backend, f"{self.env} runs on mjx only")
        own = self.backend != "mjx" or self.env not in BRAX_TASKS + GYMNASIUM_TASKS
        if self.physics != "auto" and own:
            of = self.env if self.backend == "mjx" else f"the {self.backend} backend"
            raise ConfigError("physics", self.physics, f"{of} has its own")
        if 1 < self.num_atoms < FEWEST_ATOMS:
            raise ConfigError("num_atoms", self.num_atoms, f"must be 1, or at least {FEWEST_ATOMS}")
        for name in ("num_envs", "batch_size"):
            if self.devices and getattr(self, name) % self.devices:
                raise ConfigError(
                    "devices", self.devices, f"must divide --{name}={getattr(self, name)} into equal parts"
                )

    @property
    def capacity(self) -> int:
        """``replay_capacity`` as a whole number of vector steps."""
        return -(-self.replay_capacity // self.num_envs) * self.num_envs

    @property
    def shape(self) -> tuple[Any, ...]:
        """What shapes the program: runs that are alike in it can be members of one."""
        return tuple(getattr(self, name) for name, field in FIELDS.items() if not field.metadata["varies"])

    @property
    def episode_limit(self) -> int:
        """Steps after which an episode is truncated while collecting."""
        return min(self.collect_time_limit or self.time_limit, self.time_limit)


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Config)}
