"""``td3-brax bench --compile-for GPU``: counts as a table, beside bare brax, against what they were."""

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

TOP = 12
"""Modules that the table names."""


def load(path: str) -> dict[str, Any]:
    """What ``--json`` wrote.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        loaded = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("baseline", path, f"can't be read ({error})") from None
    except ValueError:
        loaded = None
    if not isinstance(loaded, dict) or "programs" not in loaded:
        raise ConfigError("baseline", path, "is not what `td3-brax bench --compile-for GPU --json` writes")
    return loaded


def run(config: Config, members: int, target: str, baseline: str | None) -> tuple[dict[str, Any], int]:
    """Count, print, compare; what ``--json`` writes, and the exit code: 1 where something rose.

    Raises:
        ConfigError: the program can't be compiled here, or the baseline is none.
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
        f"compiled for {target} with jax {jax.__version__}; for a chunk, unless said otherwise; loops' bodies"
    )
    print("count as often as they run; a CUDA graph, whatever it holds, is one submission of the host's\n")
    print(table(programs))
    print(f"\ndevice operations by source module, {name}:")
    for module, times in list(programs[name]["modules"].items())[:TOP]:
        print(f"  {module:<44}{times:>14,}")
    rises = [] if before is None else against(programs, before["programs"])
    for line in rises:
        print(line)
    if before is not None and not rises:
        print(f"\nnothing rose by more than a tenth of what {baseline} says")
    return {"jax": jax.__version__, "target": target, "programs": programs}, int(bool(rises))


def against(programs: Mapping[str, Counted], before: Mapping[str, Counted]) -> list[str]:
    """What rose, by program; those that were not there before are left out."""
    rises = {name: compare(now, before[name]) for name, now in programs.items() if name in before}
    return [line for name, lines in rises.items() if lines for line in (f"\n{name} rose:", *lines)]


def table(programs: Mapping[str, Counted]) -> str:
    """A row for each number, a column for each program."""
    names = dict.fromkeys(name for counted in programs.values() for name in counted)
    lines = [f"{'':<40}" + "".join(f"{name:>28}" for name in programs)]
    for name in names:
        values = [counted.get(name) for counted in programs.values()]
        if any(isinstance(value, int | float) for value in values):
            lines.append(f"{name:<40}" + "".join(f"{_text(value):>28}" for value in values))
    return "\n".join(lines)


def _text(value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
