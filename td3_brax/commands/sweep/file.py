"""Read a sweep's file, check it before anything starts, and list its runs.

The format is that of Weights & Biases, so the same file works with ``wandb sweep`` and ``wandb agent``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from td3_brax.algorithm.schedule import make_schedule
from td3_brax.cli import coerce
from td3_brax.config import FIELDS, Config
from td3_brax.option import ConfigError, nearest, show
from td3_brax.presets import resolve
from td3_brax.runs import tensorboard
from td3_brax.runs.origin import absolute

KEYS = (
    "program",
    "command",
    "name",
    "description",
    "project",
    "entity",
    "method",
    "metric",
    "run_cap",
    "early_terminate",
    "parameters",
)
METHODS = ("grid", "random", "bayes")
METRICS = ("eval/return_kept", "eval/return_best", "eval/return_mean", "train/return_mean")
DISTRIBUTIONS = {
    "uniform": ("min", "max"),
    "int_uniform": ("min", "max"),
    "q_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max"),
    "normal": ("mu", "sigma"),
    "log_normal": ("mu", "sigma"),
}
"""Distributions and the two numbers that each needs. Those that begin with q also take a step size ``q``."""
SET_BY_COMMAND = ("out", "wandb", "devices")
"""Options that the command sets for its members, so that a file must not."""


class SweepError(ValueError):
    """Raised when a sweep can't be run as written. The message is one line."""


@dataclass(frozen=True)
class Sweep:
    """A sweep's file. Each parameter has been checked; their combinations have not."""

    path: Path
    name: str
    content: Mapping[str, Any]
    """The file as read, which is sent to W&B."""
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    run_cap: int | None
    metric: str
    maximize: bool

    @property
    def suggested(self) -> bool:
        """Return whether W&B decides which runs start or stop."""
        return self.method == "bayes" or "early_terminate" in self.content

    @property
    def varied(self) -> list[str]:
        """Parameters that differ between runs."""
        return [
            name
            for name, parameter in self.parameters.items()
            if "value" not in parameter and len(parameter.get("values", "..")) > 1
        ]

    def error(self, where: str, why: str) -> SweepError:
        """Make an error that names the place in the file."""
        return SweepError(f"{self.path}: {where}: {why}")

    def runs(self, seed: int) -> Iterator[dict[str, Any]]:
        """Yield the options of each run of a grid or random sweep, in order; draws follow from ``seed``."""
        if self.method == "grid":
            values = [p.get("values", [p.get("value")]) for p in self.parameters.values()]
            for combination in itertools.islice(itertools.product(*values), self.run_cap):
                yield dict(zip(self.parameters, combination, strict=True))
            return
        rng = np.random.default_rng(seed)
        for _ in range(self.run_cap or 0):
            yield {name: draw(parameter, rng) for name, parameter in self.parameters.items()}

    def config(self, options: Mapping[str, Any], platform: str) -> Config:
        """Convert the options of one run to a :class:`Config`, for a member on one device.

        Raises:
            SweepError: ``td3-brax train`` would refuse the options.
        """
        try:
            explicit = {name: coerce(name, value) for name, value in options.items()}
            config = resolve(absolute(explicit) | {"devices": 1}, platform)
            make_schedule(config)
            tensorboard.check(config)
        except ConfigError as error:
            varied = ", ".join(f"{name}={show(options[name])}" for name in self.varied)
            raise self.error(f"the run with {varied}" if varied else "parameters", str(error)) from None
        return config

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield options such that each value and each end of a range occurs in at least one of them.

        The first has the first value of each parameter; each of the others changes one parameter.
        """
        values = {name: bounds(parameter) for name, parameter in self.parameters.items()}
        first = {name: listed[0] for name, listed in values.items()}
        yield first
        for name, listed in values.items():
            for value in listed[1:]:
                yield first | {name: value}


def load(path: Path, name: str | None = None) -> Sweep:
    """Read and check a sweep's file.

    Args:
        name: name of the sweep, instead of the one in the file or the file's own name.
    Raises:
        SweepError: the file is wrong; the message says what is wrong and where.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: can't be read ({error})") from None
    except yaml.YAMLError as error:
        raise SweepError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise SweepError(
            f"{path}: must be a mapping with a key parameters that lists `name: {{values: [...]}}`"
        )
    metric = content.get("metric") or {}
    run_cap = content.get("run_cap")
    sweep = Sweep(
        path=path,
        name=name or str(content.get("name") or path.stem),
        content=content,
        method=str(content.get("method")),
        parameters=content["parameters"],
        run_cap=run_cap,
        metric=str(metric.get("name", METRICS[0])) if isinstance(metric, dict) else "",
        maximize=isinstance(metric, dict) and metric.get("goal", "maximize") == "maximize",
    )
    for key in content:
        if key not in KEYS:
            raise sweep.error(str(key), f"unknown key{nearest(str(key), KEYS)}")
    if sweep.method not in METHODS:
        raise sweep.error("method", f"must be one of {', '.join(METHODS)}, not {sweep.method}")
    if sweep.metric not in METRICS:
        raise sweep.error("metric", f"must name one of {', '.join(METRICS)}{nearest(sweep.metric, METRICS)}")
    if isinstance(metric, dict) and metric.get("goal", "maximize") not in ("maximize", "minimize"):
        raise sweep.error("metric", "the goal must be maximize or minimize")
    if run_cap is not None and not (type(run_cap) is int and run_cap > 0):
        raise sweep.error("run_cap", f"must be a whole number above 0, not {run_cap}")
    if sweep.method == "random" and run_cap is None:
        raise sweep.error("run_cap", "a random sweep needs it, to know how many runs to draw")
    for name, parameter in sweep.parameters.items():
        _check(sweep, str(name), parameter)
    return sweep


def _check(sweep: Sweep, name: str, parameter: Any) -> None:
    """Raise :class:`SweepError` unless td3-brax and W&B understand the parameter in the same way."""
    where = f"parameters.{name}"
    if name not in FIELDS:
        raise sweep.error(where, f"unknown option{nearest(name, FIELDS)}")
    if name in SET_BY_COMMAND:
        raise sweep.error(where, "is set by `td3-brax sweep`; remove it from the file")
    if name == "checkpoint_replay":
        raise sweep.error(where, "members' checkpoints always hold the replay")
    if not isinstance(parameter, dict) or not (
        {"value", "values", "min", "max", "distribution"} & {*parameter}
    ):
        raise sweep.error(where, "must hold value, values, or min and max")
    numbers = [parameter.get("value"), *bounds(parameter), parameter.get("q", 0)]
    if "values" in parameter and not (isinstance(parameter["values"], list) and parameter["values"]):
        raise sweep.error(where, "values must be a list with at least one value")
    if FIELDS[name].type in ("int", "float"):
        for value in numbers:
            if isinstance(value, str) and value.strip() not in FIELDS[name].metadata["words"]:
                raise sweep.error(
                    where, f"YAML, and so W&B, reads {value} as text; write {_as_number(value)}"
                )
    if "value" in parameter or "values" in parameter:
        return
    if sweep.method == "grid":
        raise sweep.error(where, "a grid sweep needs values, not a range")
    kind = distribution(parameter)
    if kind not in DISTRIBUTIONS:
        raise sweep.error(
            where, f"the distribution must be one of {', '.join(DISTRIBUTIONS)}{nearest(kind, DISTRIBUTIONS)}"
        )
    low, high = (parameter.get(end) for end in DISTRIBUTIONS[kind])
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise sweep.error(where, f"{kind} needs the numbers {' and '.join(DISTRIBUTIONS[kind])}")
    if "distribution" not in parameter and type(low) is not type(high):
        raise sweep.error(
            where, f"for W&B, min and max must both be whole numbers or both not, not {low} and {high}"
        )
    if DISTRIBUTIONS[kind][0] == "min" and not low < high:
        raise sweep.error(where, f"min must be below max, not {low} and {high}")
    if "log_uniform" in kind and low <= 0:
        raise sweep.error(where, f"{kind} needs a min above 0, not {low}")


def _as_number(text: str) -> str:
    """Write a number so that YAML reads it as one: ``0.0003`` for ``3e-4``."""
    try:
        return f"{float(text):f}".rstrip("0").rstrip(".")
    except ValueError:
        return "a number"


def distribution(parameter: Mapping[str, Any]) -> str:
    """Return the distribution of a range; without one in the file, W&B's default."""
    both = [parameter.get("min"), parameter.get("max")]
    default = "int_uniform" if all(isinstance(end, int) for end in both) else "uniform"
    return str(parameter.get("distribution", default))


def bounds(parameter: Mapping[str, Any]) -> list[Any]:
    """Return all values, or the bounds of a range (three standard deviations for normal distributions)."""
    if "value" in parameter:
        return [parameter["value"]]
    if "values" in parameter:
        return list(parameter["values"]) if isinstance(parameter["values"], list) else []
    if "mu" in parameter:
        low, high = (parameter["mu"] + k * parameter.get("sigma", 0) for k in (-3, 3))
        return [math.exp(low), math.exp(high)] if distribution(parameter) == "log_normal" else [low, high]
    return [parameter[end] for end in ("min", "max") if end in parameter]


def draw(parameter: Mapping[str, Any], rng: np.random.Generator) -> Any:
    """Draw a value of a random sweep, from W&B's definitions of the distributions."""
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        values, chances = parameter["values"], parameter.get("probabilities")
        return values[int(rng.choice(len(values), p=chances))]
    kind = distribution(parameter)
    first, second = (float(parameter[end]) for end in DISTRIBUTIONS[kind])
    if kind == "int_uniform":
        return int(rng.integers(int(first), int(second) + 1))
    if kind in ("normal", "log_normal"):
        value = float(rng.normal(first, second))
        return math.exp(value) if kind == "log_normal" else value
    if "log_uniform" in kind:
        value = math.exp(rng.uniform(math.log(first), math.log(second)))
    else:
        value = float(rng.uniform(first, second))
    if kind.startswith("q_"):
        step = parameter.get("q", 1)
        value = round(value / step) * step
    return value
