"""Documents: links lead somewhere, commands can be typed, and tables are what the kept files say."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from td3_brax.__main__ import COMMANDS
from td3_brax.commands.report import paper
from td3_brax.commands.report.algorithms import ALGORITHMS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


@functools.cache
def options_of(command: str) -> set[str]:
    """Return the options in a command's help, with underscores for dashes."""
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_programs_that_are_named_exist(page: Path) -> None:
    code = "\n".join(re.findall(r"^ {4}.*$|`[^`\n]+`", page.read_text(), flags=re.M))
    assert [
        path for path in re.findall(r"python ((?:sweeps|tests)/\S+\.py)", code) if not (ROOT / path).exists()
    ] == []
    modules = re.findall(r"python -m (td3_brax[\w.]*)", code)
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def made(path: Path) -> ModuleType:
    """The module in a file that is no part of the package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PUBLISH = made(ROOT / "sweeps" / "publish.py")
"""The command that writes the tables of kept results."""
KEPT = ROOT / "sweeps" / "results"


@pytest.mark.parametrize("page", PUBLISH.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_what_the_command_makes_of_the_kept_files(page: Path) -> None:
    assert PUBLISH.filled(page.read_text()) == page.read_text(), "run: python sweeps/publish.py"


def test_every_table_is_shown_and_every_place_is_closed() -> None:
    asked = {page: re.findall(r"<!-- results:?(.*?) -->", page.read_text()) for page in PAGES}
    for page, names in asked.items():
        assert [found.group(2) or "" for found in PUBLISH.PLACE.finditer(page.read_text())] == names, page
    assert [name or "summary" for name in asked[ROOT / "README.md"]] == ["summary"]
    assert sorted(asked[ROOT / "docs" / "results.md"]) == sorted(set(PUBLISH.TABLES) - {"summary"})
    assert {page for page, names in asked.items() if names} == set(PUBLISH.pages())


def test_a_page_with_another_number_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PUBLISH, "ROOT", tmp_path)
    page = tmp_path / "README.md"
    right = PUBLISH.filled("before\n<!-- results:phases -->\n<!-- /results:phases -->\nafter\n")
    assert right.startswith("before\n")
    assert right.endswith("\nafter\n")
    page.write_text(right)
    assert PUBLISH.main(["--check"]) == 0
    page.write_text(right.replace("10", "11", 1))
    assert PUBLISH.main(["--check"]) == 1
    assert "README.md" in capsys.readouterr().out
    assert page.read_text() != right


def test_runs_of_other_lengths_versions_and_options_are_rows_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PUBLISH, "RESULTS", tmp_path)
    one, shorter, newer, early, other = (tmp_path / "paper" / name for name in "abcde")
    for run in (one, shorter, newer, early, other):
        shutil.copytree(KEPT / "paper" / "HalfCheetah-v4" / "td3" / "001", run)
    lines = (one / "metrics.jsonl").read_text().splitlines(keepends=True)
    (shorter / "metrics.jsonl").write_text("".join(lines[:5]))
    about = (newer / "about.json").read_text()
    (newer / "about.json").write_text(about.replace('"td3-brax": "0.1.0"', '"td3-brax": "9.9.9"'))
    reports = [json.loads(line) | {"eval/broken": 0} for line in lines]
    (early / "metrics.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_envs": 50}))
    rows = [
        dict(zip(table.head, row, strict=True)) for table in [PUBLISH.table_paper()] for row in table.rows
    ]
    found = {(row["task"], row["steps"], row["version"]) for row in rows if row["seeds"]}
    assert found == {
        ("`HalfCheetah-v4` `--num_envs=25`", "40,000", "0.1.0"),
        ("`HalfCheetah-v4` `--num_envs=25`", "25,000", "0.1.0"),
        ("`HalfCheetah-v4` `--num_envs=25`", "40,000", "9.9.9"),
        ("`HalfCheetah-v4` `--num_envs=25`", "40,000", "0.2.0-dev"),
        ("`HalfCheetah-v4` `--num_envs=50`", "40,000", "0.1.0"),
    }
    assert {row["seeds"] for row in rows} == {"1", ""}
    assert [row["steps"] for row in rows if not row["seeds"]] == ["not run"] * 6


def test_what_was_not_run_is_said() -> None:
    table = PUBLISH.table_ablations()
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    titles = [algorithm.title for algorithm in ALGORITHMS.values()]
    for task in paper.LAST["td3"]:
        own = [row for row in rows if row["task"].startswith(f"`{task}-v4`")]
        assert {row["algorithm"] for row in own} == set(titles)
        for row in own:
            assert (row["steps"] == "not run") == (row["seeds"] == "") == (row["max average return"] == "")


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "lab").glob("*.md")), ids=lambda page: page.name)
def test_each_table_of_the_lab_says_version_and_whether_files_were_kept(page: Path) -> None:
    if page.name in ("index.md", "libraries.md"):  # a list, and decisions
        return
    head, *sections = re.split(r"^## ", page.read_text(), flags=re.M)
    for section in sections:
        before, bar, _ = section.partition("\n|")
        if bar:
            said = re.sub(r"\s+", " ", head + before)
            assert re.search(r"[Vv]ersions? 0\.\d\.\d", said), before
            assert re.search(r"raw (files|output)|results\.md|sweeps/results", said), before


@functools.cache
def shown() -> set[str]:
    """Every mean with its deviation that a table of kept results has."""
    rows = [cell for make in PUBLISH.TABLES.values() for row in make().rows for cell in row]
    return set(re.findall(SPREAD, "\n".join(rows)))


SPREAD = r"-?[\d,.]*\d ± [\d,.]*\d"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_claimed_return_is_a_kept_one_or_says_that_its_files_were_not_kept(page: Path) -> None:
    head, *sections = re.split(r"^##+ ", page.read_text(), flags=re.M)
    for section in [head, *sections]:
        if re.search(r"not\s+kept", head + section):
            continue
        for block in section.split("\n\n"):
            for claim in block.splitlines() if block.startswith("|") else [block]:
                unknown = set(re.findall(SPREAD, claim)) - shown()
                assert not unknown or "0.1.0" in claim or "http" in claim, claim


def strings_of(path: Path) -> list[str]:
    """All texts in a file's code, with ``...`` for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_messages_that_troubleshooting_quotes_are_ones_that_the_program_prints() -> None:
    headings = re.findall(r"^### (.*\".*)$", (ROOT / "docs" / "troubleshooting.md").read_text(), flags=re.M)
    quoted = [text for heading in headings for text in re.findall(r'"([^"]+)"', heading)]
    printed = [text for path in (ROOT / "td3_brax").rglob("*.py") for text in strings_of(path)]
    assert len(quoted) > 10
    filled = [text.replace("WANDB_PROJECT", "...") for text in quoted]
    parts = [part.strip(" ,") for text in filled for part in text.split("...")]
    assert [part for part in parts if not any(part in text for text in printed)] == []
