"""The options of a run: a frozen dataclass, and the checks that need only the options themselves.

The command line, config files, a run's ``config.json``, sweep keys and the option tables in the docs are all
derived from it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from td3_brax.names import BACKENDS, BRAX_TASKS, GYMNASIUM_TASKS, PHYSICS, PLAYGROUND, PRESETS, USER_CODE
from td3_brax.option import ConfigError, check_field, option

INT32_MAX = 2**31 - 1
"""Greatest value of counters and seeds, which are 32-bit integers on the device."""
MIN_ATOMS = 15
"""Fewest atoms of a histogram. With fewer, its mean is off by over a thousandth (``values.py``)."""


@dataclass(frozen=True)
class Config:
    """The options of one run. Members of one program may differ only in options that have ``varies``."""

    preset: str = option("quick", "run", "named set of defaults", choices=PRESETS, varies=True)
    seed: int = option(0, "run", "seed of all random numbers", at_least=0, at_most=INT32_MAX, varies=True)
    total_env_steps: int = option(
        1_000_000,
        "run",
        "length of the run in environment steps, rounded up to whole reports",
        above=0,
        at_most=INT32_MAX,
        may_change=True,
        varies=True,
    )
    out: str = option("", "run", "folder of the run (empty: runs/<env>-<preset>-s<seed>-<time>)", varies=True)
    init_from: str = option(
        "", "run", "folder of a run; start with its networks and observation statistics", varies=True
    )
    devices: int = option(
        1,
        "run",
        "devices that share environments, replay and batches (all: every device, or every core of a CPU)",
        at_least=0,
        words={"all": 0},
    )
    deterministic: bool = option(
        False, "run", "make GPU runs reproducible bit for bit, but slower (CPU runs always are reproducible)"
    )

    env: str = option(
        "ant",
        "task",
        "task of brax, Gymnasium (-v) or MuJoCo Playground, or your own",
        choices=BRAX_TASKS + GYMNASIUM_TASKS,
        patterns={f"{PLAYGROUND}NAME": re.compile(f"{PLAYGROUND}.*"), "MODULE:NAME": USER_CODE},
    )
    env_args: str = option(
        "", "task", 'arguments of the task, such as {"ctrl_cost_weight": 0.1}', mapping=True
    )
    backend: str = option("mjx", "task", "physics backend of a brax task", choices=BACKENDS)
    physics: str = option(
        "auto",
        "task",
        "physics of Gymnasium tasks and brax's on mjx: fast (our own), mjx, or fast if supported (auto)",
        choices=PHYSICS,
    )
    num_envs: int = option(128, "task", "environments that step together", above=0)
    time_limit: int = option(
        1000,
        "task",
        "environment steps after which an episode is truncated (its value is bootstrapped)",
        above=0,
        at_most=INT32_MAX,
    )
    collect_time_limit: int = option(
        0,
        "task",
        "shorter time limit while collecting, for more experience of initial states (0: time_limit)",
        at_least=0,
        at_most=INT32_MAX,
    )
    spread_phases: bool = option(
        False,
        "task",
        "truncate the first episodes at random steps, so that environments do not all reset together",
    )

    updates_per_env_step: float = option(
        1.0,
        "replay",
        "critic updates per environment step, however many environments run in parallel",
        above=0,
        at_most=1000,
    )
    batch_size: int = option(256, "replay", "transitions per update", above=0)
    replay_capacity: int = option(
        1_000_000, "replay", "transitions in the replay, rounded up to whole vector steps", above=0
    )
    warmup_env_steps: int = option(
        1000,
        "replay",
        "environment steps with uniformly random actions at the start of the run",
        at_least=0,
        at_most=INT32_MAX,
        varies=True,
    )
    update_during_warmup: bool = option(
        True,
        "replay",
        "update from the first environment step on, instead of only after the warm-up",
        varies=True,
    )

    hidden_sizes: tuple[int, ...] = option(
        (256, 256), "networks", "units of each hidden layer, in actor and critics", above=0
    )
    critic: str = option(
        "mlp",
        "networks",
        "network of the critics: layers of hidden_sizes (mlp), or your own class, which is constructed with "
        "hidden_sizes, outputs and compute_dtype",
        choices=("mlp",),
        patterns={"MODULE:NAME": USER_CODE},
    )
    critic_action_scale: float = option(
        1.0,
        "networks",
        "factor on the actions in [-1, 1] that critics see (the paper's critics see the task's units)",
        above=0,
    )
    num_atoms: int = option(
        1, "networks", "atoms of the critics' value distribution (1: one value, as in the paper)", above=0
    )
    compute_dtype: str = option(
        "float32",
        "networks",
        "type of operands in the products between hidden layers; parameters and sums stay float32",
        choices=("float32", "bfloat16"),
    )
    normalize_obs: bool = option(
        False, "networks", "normalise observations by their running mean and standard deviation"
    )

    n_step: int = option(1, "TD3", "environment steps of rewards in a target before it bootstraps", above=0)
    gamma: float = option(0.99, "TD3", "discount per step", at_least=0, at_most=1, varies=True)
    tau: float = option(
        0.005, "TD3", "step size of the Polyak averaging of the targets", above=0, at_most=1, varies=True
    )
    actor_lr: float = option(1e-3, "TD3", "learning rate of the actor (Adam)", above=0, varies=True)
    critic_lr: float = option(1e-3, "TD3", "learning rate of the critics (Adam)", above=0, varies=True)
    lr_decay: float = option(
        0.0,
        "TD3",
        "fraction by which both learning rates have decayed, linearly, at the end of the run",
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
        "additional exploration noise, from 0 in the first environment to this in the last",
        at_least=0,
        varies=True,
    )
    target_noise: float = option(
        0.2, "TD3", "standard deviation of the noise on the target policy's actions", at_least=0, varies=True
    )
    target_noise_clip: float = option(
        0.5, "TD3", "the target noise is clipped to +- this", at_least=0, varies=True
    )
    policy_delay: int = option(
        2, "TD3", "critic updates per update of the actor and the targets", above=0, at_most=64
    )
    num_critics: int = option(
        2,
        "TD3",
        "number of critics; the target uses their minimum (1: no clipped double Q-learning)",
        above=0,
        at_most=2,
    )

    report_every: int = option(
        5000,
        "evaluation",
        "environment steps between reports, rounded to whole rounds of steps and updates",
        above=0,
    )
    eval_every: int = option(
        5000,
        "evaluation",
        "environment steps between evaluations, rounded to whole reports",
        above=0,
        may_change=True,
    )
    eval_episodes: int = option(10, "evaluation", "episodes per greedy evaluation", above=0, may_change=True)
    eval_tau: float = option(
        1.0,
        "evaluation",
        "step size of the average of actors that is evaluated and saved (1: the actor itself)",
        above=0,
        at_most=1,
        varies=True,
    )

    wandb: str = option(
        "disabled",
        "saving",
        "Weights & Biases mode (runs that a sweep starts default to online); WANDB_PROJECT names the project",
        choices=("online", "offline", "disabled"),
        may_change=True,
        varies=True,
    )
    tensorboard: bool = option(
        False, "saving", "write the reports for TensorBoard to RUN/tensorboard", may_change=True, varies=True
    )
    film: bool = option(
        False,
        "saving",
        "make a film of the policy at the end of the run, like `td3-brax render`",
        may_change=True,
        varies=True,
    )
    checkpoint_every_min: float = option(
        5.0,
        "saving",
        "minutes between checkpoints; one more is made at the end (0: no checkpoints)",
        at_least=0,
        may_change=True,
        varies=True,
    )
    checkpoint_keep: int = option(
        2, "saving", "newest checkpoints to keep while training", above=0, may_change=True, varies=True
    )
    checkpoint_replay: bool = option(
        True,
        "saving",
        "save the replay in checkpoints; without it they are small, but resuming is not exact",
        may_change=True,
        varies=True,
    )
    on_nonfinite: str = option(
        "stop",
        "saving",
        "reaction to a gradient that is not finite: stop the run, or only skip the affected updates",
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
                raise ConfigError("env_args", self.env_args, f"brax's {self.env} takes no arguments")
        elif self.backend != "mjx":
            raise ConfigError("backend", self.backend, f"{self.env} runs on mjx only")
        has_own_physics = self.backend != "mjx" or self.env not in BRAX_TASKS + GYMNASIUM_TASKS
        if self.physics != "auto" and has_own_physics:
            kind = self.env if self.backend == "mjx" else f"the {self.backend} backend"
            raise ConfigError("physics", self.physics, f"can't be chosen, because {kind} has its own physics")
        if 1 < self.num_atoms < MIN_ATOMS:
            raise ConfigError("num_atoms", self.num_atoms, f"must be 1, or at least {MIN_ATOMS}")
        for name in ("num_envs", "batch_size"):
            if self.devices and getattr(self, name) % self.devices:
                raise ConfigError(
                    "devices", self.devices, f"must divide --{name}={getattr(self, name)} into equal parts"
                )

    @property
    def capacity(self) -> int:
        """``replay_capacity`` rounded up to whole vector steps."""
        return -(-self.replay_capacity // self.num_envs) * self.num_envs

    @property
    def shape(self) -> tuple[Any, ...]:
        """Values of the options that shape the program. Runs with equal values can share one program."""
        return tuple(getattr(self, name) for name, field in FIELDS.items() if not field.metadata["varies"])

    @property
    def episode_limit(self) -> int:
        """Environment steps after which an episode is truncated while collecting."""
        return min(self.collect_time_limit or self.time_limit, self.time_limit)


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Config)}
