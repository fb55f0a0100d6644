"""Start a run with the networks and observation statistics of another run: ``--init_from``."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from td3_brax.cli import load_config
from td3_brax.config import FIELDS, INT32_MAX, Config
from td3_brax.option import ConfigError, show

if TYPE_CHECKING:
    from td3_brax.algorithm.state import TrainState
    from td3_brax.envs.task import Task
    from td3_brax.runs.checkpoint import Arrays

ALIKE = ("hidden_sizes", "critic", "critic_action_scale", "num_atoms", "num_critics", "normalize_obs")
"""Options that must be those of the origin, because networks or what they read would differ."""
LEARNER = ".members.learner."
STATISTICS = ".members.obs_stats."
COUNT = f"{STATISTICS}count"
OPTIMISERS = ("actor_opt", "critic_opt")


class OriginError(ConfigError):
    """A run that can't start with the networks of ``--init_from``."""

    def __init__(self, run: str, why: str, option: str = "init_from", value: object = None) -> None:
        super().__init__(option, run if option == "init_from" else value, why)


@dataclass(frozen=True)
class Origin:
    """Networks and observation statistics of another run's checkpoint, with which a new run starts.

    Optimiser states and the replay are not among it. Adam's moments belong to the gradients of the old task,
    and the old transitions have the old rewards.
    """

    run: str
    """Folder of the other run."""
    env_steps: int
    """Its environment steps until the checkpoint."""
    version: str
    """Version of td3-brax that wrote the checkpoint."""
    arrays: Arrays
    """The arrays, by their path in a TrainState of one member."""
    hidden_sizes: tuple[int, ...]

    @property
    def about(self) -> dict[str, Any]:
        """The entry in ``about.json``."""
        return {"run": self.run, "env_steps": self.env_steps, "td3-brax": self.version}

    @property
    def line(self) -> str:
        """The line that the run prints."""
        return (
            f"starting with the networks and observation statistics of {self.run} at {self.env_steps:,} steps"
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """Sizes of an observation and of an action."""
        obs_size = self.arrays[f"{STATISTICS}mean"].shape[-1]
        name = f"{LEARNER}actor"
        count = sum(a.size for other, a in self.arrays.items() if other.partition("[")[0] == name)
        layers = itertools.pairwise((obs_size, *self.hidden_sizes))
        hidden = sum((inputs + 1) * outputs for inputs, outputs in layers)
        return obs_size, (count - hidden) // (self.hidden_sizes[-1] + 1)

    def check_sizes(self, env: str, task: Task) -> None:
        """Raise :class:`OriginError` unless the networks fit the sizes of the task ``env``."""
        kinds = ("observations", "actions")
        for kind, ours, theirs in zip(kinds, (task.obs_size, task.action_size), self.sizes, strict=True):
            if ours != theirs:
                raise OriginError(self.run, f"its {kind} have size {theirs}, but those of {env} have {ours}")

    def fit(self, shapes: TrainState) -> Arrays:
        """Return the arrays in the form of ``shapes``, a program's state; each has one member.

        Raises:
            OriginError: an array is missing, or has another shape.
        """
        import jax

        from td3_brax.runs import checkpoint

        leaves = jax.tree_util.tree_flatten_with_path(taken(shapes))[0]
        wanted = {jax.tree_util.keystr(path): (1, *leaf.shape[1:]) for path, leaf in leaves if leaf.size}
        found = checkpoint.match_packing(wanted, self.arrays)
        for name, shape in wanted.items():
            if name not in found or found[name].shape != shape:
                raise OriginError(self.run, f"its networks do not fit: {name} should be {list(shape)}")
        return found


def absolute(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with an absolute ``init_from``, so that a run can start again from any folder."""
    run = options.get("init_from")
    return {**options, "init_from": str(Path(run).resolve())} if run else dict(options)


def load(config: Config) -> Origin | None:
    """Load what a new run with ``config`` starts with, from the newest usable checkpoint; None if nothing.

    Raises:
        OriginError: there is no such run, it has no usable checkpoint, or its options do not fit.
    """
    if not config.init_from:
        return None
    run = Path(config.init_from)
    if not (run / "config.json").is_file():
        raise OriginError(str(run), "this folder contains no run (no config.json)")
    try:
        theirs = load_config(str(run / "config.json"))
    except ConfigError as error:
        raise OriginError(str(run), f"its options can't be read ({error})") from None
    for name in ALIKE:
        value, needed = getattr(config, name), theirs.get(name, FIELDS[name].default)
        if value != needed:
            why = f"must be {show(needed)}, as in the run of --init_from={show(str(run))}"
            raise OriginError(str(run), why, name, value)
    from td3_brax.runs import checkpoint

    folders, problem = checkpoint.saved(run), ""
    for path in folders:
        try:
            arrays, host = _read(path, (path / "checksums.json").stat().st_mtime_ns)
            steps, version = int(host["env_steps"]), host["versions"]["td3-brax"]
            return Origin(str(run), steps, version, arrays, config.hidden_sizes)
        except (checkpoint.CheckpointError, OSError, KeyError, TypeError, ValueError) as error:
            problem = problem or f" ({error})"
    why = "has no usable checkpoint" if folders else "has no checkpoint; members of a sweep keep none"
    raise OriginError(str(run), why + problem)


@functools.lru_cache(maxsize=4)
def _read(path: Path, written: int) -> tuple[Arrays, dict[str, Any]]:
    """Read networks and observation statistics of a checkpoint, which was ``written`` at this time."""
    from td3_brax.runs import checkpoint

    skipped = tuple(LEARNER + name for name in OPTIMISERS)

    def wanted(name: str) -> bool:
        return name.startswith((LEARNER, STATISTICS)) and not name.startswith(skipped)

    arrays, host, _ = checkpoint.load(path, wanted)
    return arrays, host


def check_all(configs: Iterable[Config]) -> None:
    """Raise :class:`OriginError` unless every run of ``configs`` could start now."""
    from td3_brax.envs.registry import make_task

    tasks: dict[tuple[Any, ...], Task] = {}
    for config in configs:
        if origin := load(config):
            task = tasks[config.shape] = tasks.get(config.shape) or make_task(config)
            origin.check_sizes(config.env, task)


def taken(state: Any) -> Any:
    """Return ``state`` with only the parts that come from an origin; the others are None."""
    nothing = dict.fromkeys(("env", "hyper", "key", "env_steps", "updates"))
    learner = state.members.learner.replace(**dict.fromkeys(OPTIMISERS))
    return state.replace(members=state.members.replace(learner=learner, **nothing), replay=None)


def start_from(state: TrainState, origins: Mapping[int, Origin], configs: Sequence[Config]) -> TrainState:
    """Return ``state`` with the networks and statistics of ``origins``, given by the members' places.

    Args:
        configs: the options of all members.
    """
    if not origins:
        return state
    import jax

    from td3_brax.runs import checkpoint

    part = taken(state)
    arrays = checkpoint.to_host(part)
    for place, origin in origins.items():
        fitting = origin.fit(state)
        for name, array in arrays.items():
            array[place] = fitting[name][0]
        # The run adds its own observations to this 32-bit counter.
        arrays[COUNT][place] = min(arrays[COUNT][place], INT32_MAX - configs[place].total_env_steps)
    new = checkpoint.to_device(arrays, part, jax.tree.map(lambda x: x.sharding, part))
    optimisers = {name: getattr(state.members.learner, name) for name in OPTIMISERS}
    learner = dataclasses.replace(new.members.learner, **optimisers)
    members = dataclasses.replace(state.members, learner=learner, obs_stats=new.members.obs_stats)
    return dataclasses.replace(state, members=members)
