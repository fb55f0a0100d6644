"""The READMEs: links lead somewhere, and commands are ones that can be typed."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from td3_brax.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


@functools.cache
def options_of(command: str) -> set[str]:
    """As its help has them, with underscores for dashes."""
    said = subprocess.run(
        [sys.executable, "-m", "td3_brax", command, "--help"], check=True, capture_output=True, text=True
    )
    return set(re.findall(r"__\w+", said.stdout.replace("-", "_")))


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """(command, its options) of each ``td3-brax`` in what is written as code."""
    code = re.findall(r"^ {4}.*$|`[^`\n]+`", page.read_text(), flags=re.M)
    found = []
    for line in code:
        for call in re.findall(r"td3-brax ([a-z]+\b[^#`|&]*)", line):
            name, *words = call.split("  ")[0].split()
            found.append((name, [word.split("=")[0] for word in words if word.startswith("--")]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_typed(page: Path) -> None:
    for name, options in commands(page):
        assert name in COMMANDS
        assert {option.replace("-", "_") for option in options} <= options_of(name)


def test_commands_are_found() -> None:
    found = {name for page in PAGES for name, _ in commands(page)}
    assert found >= {"train", "eval", "score", "sweep", "reproduce", "report", "render", "plan"}
