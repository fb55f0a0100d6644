"""Style, types and layout: part of the suite, so that one command checks everything."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_clean(command):
    run = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


PACKAGE = ROOT / "td3_brax"
LONGEST = 300
"""Lines of a module."""

# From the bottom up: what a room may import, beside itself and the files at the root of the package that
# hold options. The face of the package (api, train) stands on all of them.
OPTIONS = {"cli", "config", "names", "option", "policy", "presets", "user_code"}
MAY_IMPORT = {
    "kernels": set[str](),
    "envs": {"kernels", *OPTIONS},
    "algorithm": {"envs", "kernels", *OPTIONS},
    "runs": {"algorithm", "envs", "kernels", "__init__", *OPTIONS},
    "commands": {"runs", "algorithm", "envs", "kernels", *OPTIONS},
    **dict.fromkeys(OPTIONS, OPTIONS),
}
NEVER = {"wandb", "rich", "time", "pathlib", "matplotlib"}
"""Files, clocks and people are no business of what runs on the device."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """All modules that a file imports, those inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return found


def room(module: str) -> str:
    """``runs`` for ``td3_brax.runs.run``; ``__init__`` for the package itself."""
    return [*module.split("."), "__init__"][1]


def arrows(depth: int) -> set[tuple[str, str]]:
    """Return which part of the package imports which, by the first ``depth`` names of each."""
    return {
        (".".join(module.split(".")[:depth]), ".".join(other.split(".")[:depth]))
        for module, path in MODULES.items()
        for other in imports(path)
        if other.split(".")[0] == PACKAGE.name
    }


def test_arrows_point_down() -> None:
    upward = {
        (module, other)
        for module, path in MODULES.items()
        for other in imports(path)
        if other.split(".")[0] == PACKAGE.name
        and room(module) in MAY_IMPORT
        and room(other) not in {room(module), *MAY_IMPORT[room(module)]}
    }
    assert upward == set()


def test_commands_do_not_import_each_other_in_circles() -> None:
    among = {(a, b) for a, b in arrows(3) if a != b and room(a) == room(b) == "commands"}
    left = {name for pair in among for name in pair}
    while free := {name for name in left if not any(a == name and b in left for a, b in among)}:
        left -= free
    assert left == set()


@pytest.mark.parametrize("where", ["algorithm", "kernels", "envs"])
def test_what_runs_on_the_device_knows_no_files_clocks_or_people(where: str) -> None:
    found = {
        (module, name)
        for module, path in MODULES.items()
        if room(module) == where
        for name in imports(path)
        if name.split(".")[0] in NEVER
    }
    assert found <= {("td3_brax.envs.tasks.gymnasium_models", "pathlib")}  # where Gymnasium's models lie


def test_no_module_is_long() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST} == {}
