"""``td3-brax bench``: measure where time goes on this device, or count what a program would do on a GPU."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from td3_brax.cli import guarded, parse_options, train_parser, whole_number
from td3_brax.option import ConfigError, nearest
from td3_brax.presets import CPU_DEVICES, resolve
from td3_brax.runs.device import platform, prepare_jax, resolve_devices
from td3_brax.runs.versions import machine

TARGETS = ("h100",)


def job(argv: Sequence[str]) -> int:
    """Measure or count; return the exit code: 1 if a number rose above the baseline's."""
    parser = train_parser(
        "bench", "Measure where time goes on this device, or count what a program would do on a GPU."
    )
    bench = parser.add_argument_group("bench")
    bench.add_argument(
        "--members", type=whole_number, metavar="INT", help="members in one program (default: 1)"
    )
    bench.add_argument(
        "--compile_for",
        metavar="GPU",
        help=f"compile for this GPU and count operations; needs no GPU [{', '.join(TARGETS)}]",
    )
    bench.add_argument(
        "--baseline",
        metavar="FILE",
        help="with --compile_for: fail if a number is more than 10%% above this file's",
    )
    bench.add_argument(
        "--peers", action="store_true", default=None, help="also measure other trainers, if installed"
    )
    bench.add_argument("--json", metavar="FILE", help="write the numbers as JSON")
    bench.add_argument("--plot", metavar="FILE", help="write a figure of the shares of the limits (PNG)")
    explicit, others = parse_options(parser, argv)
    target, members = others.get("compile_for"), others.get("members", 1)
    if target is not None and target not in TARGETS:
        raise ConfigError(
            "compile_for", target, f"must be one of {', '.join(TARGETS)}{nearest(target, TARGETS)}"
        )
    if members < 1:
        raise ConfigError("members", members, "must be above 0")
    unused = ("peers", "plot") if target else ("baseline",)
    for name in unused:
        if name in others:
            raise ConfigError(
                name, others[name], f"can only be used {'without' if target else 'with'} --compile_for"
            )
    for name in ("json", "plot"):
        if name in others and not Path(others[name]).absolute().parent.is_dir():
            raise ConfigError(name, others[name], "its folder does not exist")
    if target:
        os.environ["JAX_PLATFORMS"] = "cpu"  # a present GPU would hide the described one
    prepare_jax(explicit.get("deterministic", False), explicit.get("devices", CPU_DEVICES))
    if target:
        from td3_brax.commands.bench import counted

        config = resolve(explicit, "gpu")
        if config.devices != 1:
            raise ConfigError("devices", config.devices, "can only be used without --compile_for")
        numbers, code = counted.run(config, members, target, others.get("baseline"))
    else:
        from td3_brax.commands.bench import timed

        config = resolve_devices(resolve(explicit, platform()))
        numbers, code = timed.run(config, members, bool(others.get("peers")), others.get("plot")), 0
    if "json" in others:
        written: dict[str, Any] = {"machine": machine(), **numbers}
        Path(others["json"]).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
