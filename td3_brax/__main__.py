"""``td3-brax COMMAND ...``: only dispatches."""

from __future__ import annotations

import importlib
import sys

from td3_brax.cli import fail
from td3_brax.option import nearest

COMMANDS = {
    "train": ("td3_brax.train", "train a policy (the default job)"),
    "plan": ("td3_brax.commands.plan", "say what a run would hold in memory"),
    "bench": ("td3_brax.commands.bench.run", "say where the time goes here, or what a GPU would do"),
    "eval": ("td3_brax.commands.eval", "score a run's saved policy, greedily, on the device"),
    "score": ("td3_brax.commands.score", "the same, beside the real Gymnasium environment"),
    "sweep": ("td3_brax.commands.sweep.run", "train the members of a W&B sweep together, in one program"),
    "render": (
        "td3_brax.commands.render.run",
        "a film of a run's policy, or a page to look at it from all sides",
    ),
    "reproduce": (
        "td3_brax.commands.reproduce.run",
        "the TD3 paper's experiments, and a page beside its numbers",
    ),
    "report": ("td3_brax.commands.report.run", "a page about any runs: curves, tables, PNG and CSV"),
}


def main() -> int:
    """Run the command named by the first argument with the rest."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: td3-brax COMMAND [OPTIONS]\n\ncommands (td3-brax COMMAND --help for its options):")
        for command, (_, job) in COMMANDS.items():
            print(f"  {command:<10}{job}")
        return 0
    if name not in COMMANDS:
        return fail(f"unknown command {name}{nearest(name, COMMANDS)}; commands: {', '.join(COMMANDS)}")
    return int(importlib.import_module(COMMANDS[name][0]).main(rest))


if __name__ == "__main__":
    sys.exit(main())
