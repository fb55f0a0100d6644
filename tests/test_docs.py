"""The READMEs: links lead somewhere, and commands are ones that can be typed."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from td3_brax.__main__ import COMMANDS
from td3_brax.report import tables
from td3_brax.report.groups import group
from td3_brax.report.runs import find
from td3_brax.report.stats import curves

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
    parts = re.split(r"^```.*$", page.read_text(), flags=re.M)  # prose, code, prose, ...
    code = [line for part in parts[1::2] for line in part.splitlines()]
    code += re.findall(r"^ {4}.*$|`[^`\n]+`", "".join(parts[::2]), flags=re.M)
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


KEPT = ROOT / "sweeps" / "results"


def made(folder: str) -> list[dict[str, str]]:
    """The report's first table of the kept runs in ``folder``."""
    measured = [(own, found) for own in group(find([str(KEPT / folder)])) if (found := curves(own))]
    table = tables.best(measured)
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


def rows(page: Path, first: str) -> list[list[str]]:
    """The cells of a page's table whose head begins with ``first``."""
    _, _, after = page.read_text().partition(f"\n{first}")
    lines = after.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_what_is_claimed_of_the_papers_experiments_is_in_the_files_that_are_kept() -> None:
    kept = made("paper")
    names = {"without delay (DP)": "TD3 - DP", "without target policy smoothing (TPS)": "TD3 - TPS"}
    names |= {"without clipped double Q (CDQ)": "TD3 - CDQ"}
    table, task = [], ""
    for cells in rows(ROOT / "sweeps" / "README.md", "| task | algorithm |"):
        task = cells[0].strip("`") or task
        table.append([task, names.get(cells[1], cells[1]), *cells[2:]])
    columns = ["max average return", "published curve's best to this step", "last policy in Gymnasium"]
    said = [
        [row["task"], row["experiment"], f"{row['trials']}, {row['steps']}", *(row[name] for name in columns)]
        for row in kept
    ]
    assert sorted(table) == sorted(said)

    every = {(row["task"], row[name]) for row in kept for name in [*columns, "published, 1M steps (v1)"]}
    shown = [cells for cells in rows(ROOT / "README.md", "| task | here |") if "`paper`" in cells[0]]
    assert len(shown) == 4
    for cells in shown:
        (env,) = re.findall(r"`(\w+-v\d)`", cells[0])
        for value in re.findall(r"-?[\d,.]+\d ± [\d,.]*\d", " ".join(cells[1:])):
            assert (env, value) in every, value


def test_what_is_claimed_of_phases_is_in_the_files_that_are_kept() -> None:
    text = (ROOT / "sweeps" / "README.md").read_text()
    kept = made("phases")
    assert [row["trials"] for row in kept] == ["4", "10"]
    assert all(row["max average return"] in text for row in kept)
    found = {own.env: curves(own) for own in group(find([str(KEPT / "paper")])) if own.algorithm == "td3"}
    for env, said in {
        "HalfCheetah-v4": "at {:,.0f} ± {:,.0f} with it",
        "Walker2d-v4": "Walker2d: {:,.0f} at",
    }.items():
        there = found[env]
        assert there is not None
        at = there.env_steps.tolist().index(25_000)
        assert said.format(there.mean[at], 2 * there.half_std[at]) in text
