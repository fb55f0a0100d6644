"""The documentation site builds, and its pages say what the program has."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_docs import PAGES, ROOT

from td3_brax.config import Config
from td3_brax.envs.registry import make_task

TRAIN = ROOT / "docs" / "train.md"


def rows(page: Path, first: str) -> list[list[str]]:
    """The cells of a page's table whose head begins with ``first``."""
    _, _, after = page.read_text().partition(f"\n{first}")
    lines = after.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation site, built strictly, without a network."""
    out = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def test_the_site_has_every_page(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs") for path in PAGES if path.is_relative_to(ROOT / "docs")]
    assert len(pages) > 20
    assert [page for page in pages if not (site / page).with_suffix(".html").is_file()] == []


def test_the_site_shows_files_of_the_repository_and_the_changes(site: Path) -> None:
    assert "run_cap" in (site / "source" / "sweeps" / "smoke.yaml.html").read_text()
    assert "Checkpoints of 0.1.0 do not fit" in (site / "changes.html").read_text()


def test_the_sites_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = [
        found
        for page in site.rglob("*.html")
        for found in re.findall(
            r"<(?:script|link|img|iframe|video|source)\b[^>]*=\"?(?:https?:)?//[^>]*>|class=\"mermaid",
            page.read_text(),
        )
    ]
    assert loaded == []


def test_the_options_on_the_page_are_those_of_the_program() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "tools" / "options.py"))["tables"]()
    assert made in TRAIN.read_text(), "python docs/tools/options.py"


def test_the_exit_codes_on_the_page_are_those_of_the_program() -> None:
    (path,) = (ROOT / "td3_brax").rglob("signals.py")
    codes = {int(code) for code in re.findall(r"^[A-Z]+ = (\d+)$", path.read_text(), flags=re.M)}
    assert len(codes) > 3
    said = {int(cells[0]) for cells in rows(TRAIN, "| code | meaning |")}
    assert said == codes | {0, 2, 134}  # 134: of JAX, where another host is lost


def test_the_tasks_on_the_page_are_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = (ROOT / "docs" / "own-task.md").read_text()
    names = []
    for code, module in re.findall(r"^```python\n(# (\w+)\.py\n.*?)^```", text, flags=re.M | re.S):
        (tmp_path / f"{module}.py").write_text(code)
        names += [f"{module}:{name}" for name in re.findall(r"^class (\w+)", code, flags=re.M)]
    slow, fast = (make_task(Config(env=name, env_args='{"mass": 1.2}')) for name in names)
    state, _ = slow.reset(jax.random.key(0))
    action = np.array([0.5], np.float32)
    after, after_fast = jax.jit(slow.step)(state, action), jax.jit(fast.step)(state, action)
    np.testing.assert_allclose(after.obs, after_fast.obs, atol=1e-6)
    assert not np.array_equal(after.obs, state)
