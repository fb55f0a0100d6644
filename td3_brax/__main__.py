"""``td3-brax COMMAND ...``: call the command."""

from __future__ import annotations

import importlib
import sys

from td3_brax.cli import fail
from td3_brax.option import nearest

COMMANDS = {
    "train": ("td3_brax.train", "train a policy (the default job)"),
    "plan": ("td3_brax.commands.plan", "show how much memory a run would need"),
    "bench": (
        "td3_brax.commands.bench.run",
        "show where time goes on this machine, or what a GPU would execute",
    ),
    "eval": ("td3_brax.commands.eval", "score a run's saved policy on the device, without noise"),
    "score": (
        "td3_brax.commands.score",
        "score a saved policy on the device and in the real Gymnasium environment",
    ),
    "sweep": ("td3_brax.commands.sweep.run", "train the members of a W&B sweep together, in one program"),
    "render": (
        "td3_brax.commands.render.run",
        "make a film of a run's policy, or an interactive page in 3D",
    ),
    "play": ("td3_brax.commands.play", "play a policy in MuJoCo's own viewer"),
    "export": ("td3_brax.commands.export.run", "write a policy as an ONNX model, or with a model card"),
    "reproduce": (
        "td3_brax.commands.reproduce.run",
        "run the TD3 paper's experiments and compare with its numbers",
    ),
    "report": ("td3_brax.commands.report.run", "make a page about any runs: curves, tables, PNG and CSV"),
}


def main() -> int:
    """Run the command that the first argument names with the remaining arguments; return its exit code."""
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
