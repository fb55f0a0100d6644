"""``td3-brax bench --compile-for GPU``: print counts as a table, and compare them with a baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from td3_brax.commands.bench import aot
from td3_brax.commands.bench.counts import Counted, compare, count_brax, count_chunk, count_rejax
from td3_brax.config import Config
from td3_brax.envs.registry import make_task
from td3_brax.option import ConfigError

TOP_MODULES = 12
"""Source modules that are listed."""


def load(path: str) -> dict[str, Any]:
    """Load a baseline that ``--json`` wrote.

    Raises:
        ConfigError: the file can't be read, or is not a baseline.
    """
    try:
        loaded = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("baseline", path, f"can't be read ({error})") from None
    except ValueError:
        loaded = None
    if not isinstance(loaded, dict) or "programs" not in loaded:
        raise ConfigError(
            "baseline", path, "is not a file that `td3-brax bench --compile-for GPU --json` wrote"
        )
    return loaded


def run(config: Config, members: int, target: str, baseline: str | None) -> tuple[dict[str, Any], int]:
    """Count, print and compare with the baseline.

    Return what ``--json`` writes, and the exit code: 1 if a number rose.

    Raises:
        ConfigError: the program can't be compiled here, or the baseline can't be used.
    """
    before = load(baseline) if baseline else None
    name = f"{config.env} {config.preset}, {members} member{'s' * (members > 1)}"
    try:
        programs = {name: count_chunk(config, make_task(config), members, target)}
        if config.env == "ant":
            programs["bare brax Ant, a step"] = count_brax(target, config.num_envs)
            programs |= count_rejax(target, config)
    except aot.AotError as error:
        raise ConfigError("compile_for", target, str(error)) from None
    print(
        f"compiled for {target} with jax {jax.__version__}; numbers are per chunk unless they say otherwise"
    )
    print(
        "a loop's body counts as often as it runs; a CUDA graph is one host submission, whatever it holds\n"
    )
    print(table(programs))
    print(f"\ndevice operations by source module, {name}:")
    for module, times in list(programs[name]["modules"].items())[:TOP_MODULES]:
        print(f"  {module:<44}{times:>14,}")
    rises = [] if before is None else list_rises(programs, before["programs"])
    for line in rises:
        print(line)
    if before is not None and not rises:
        print(f"\nno number is more than 10% above {baseline}")
    return {"jax": jax.__version__, "target": target, "programs": programs}, int(bool(rises))


def list_rises(programs: Mapping[str, Counted], before: Mapping[str, Counted]) -> list[str]:
    """List what rose in each program; programs that are not in the baseline are left out."""
    rises = {name: compare(now, before[name]) for name, now in programs.items() if name in before}
    return [line for name, lines in rises.items() if lines for line in (f"\n{name} rose:", *lines)]


def table(programs: Mapping[str, Counted]) -> str:
    """Format a table with a row for each number and a column for each program."""
    names = dict.fromkeys(name for counted in programs.values() for name in counted)
    lines = [f"{'':<40}" + "".join(f"{name:>28}" for name in programs)]
    for name in names:
        values = [counted.get(name) for counted in programs.values()]
        if any(isinstance(value, int | float) for value in values):
            lines.append(f"{name:<40}" + "".join(f"{_text(value):>28}" for value in values))
    return "\n".join(lines)


def _text(value: Any) -> str:
    """Format a number; anything else is empty."""
    if not isinstance(value, int | float):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
