"""sweeps/search.py: runs what is left, and its table says what the runs logged."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from td3_brax.presets import resolve

SWEEPS = Path(__file__).parent.parent / "sweeps"


@pytest.fixture
def search() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search", SWEEPS / "search.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logged(run: Path, rate: float, until: int) -> None:
    """What a run writes whose return is ``rate`` times its seconds."""
    run.mkdir(parents=True)
    lines = [
        {
            "env_steps": 10_000 * i,
            "wall_s": 10.0 + i,
            "time/env_steps_per_s": 10_000.0,
            "eval/return_mean": rate * i if i % 2 == 0 else None,
            "eval/length_mean": 1000.0,
        }
        for i in range(1, until + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"env_st')
    (run / "config.json").write_text('{"total_env_steps": 150000}')


@pytest.mark.parametrize(
    ("reports", "until", "done"),
    [
        (9, {"env_steps": 100_000}, False),
        (10, {"env_steps": 100_000}, True),
        (11, {"minutes": 0.2}, False),
        (12, {"minutes": 0.2}, True),
        (14, {"minutes": 10}, False),
        (15, {"minutes": 10}, True),
        (0, {"env_steps": 100_000}, False),
    ],
)
def test_a_run_is_finished_at_the_steps_or_minutes_asked_for_or_its_own_end(
    search: ModuleType, tmp_path: Path, reports: int, until: dict[str, float], done: bool
) -> None:
    logged(tmp_path / "run", 1.0, reports)
    assert search.finished(tmp_path / "run", until) == done


def test_a_search_goes_on_where_it_was_stopped_and_sums_up(
    search: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, runs = tmp_path / "search.yaml", tmp_path / "runs", []
    candidates = {"slow (one)": {"gamma": 0.9}, "fast": {}}
    file.write_text(
        yaml.safe_dump(
            {"until": {"env_steps": 100_000}, "seeds": [0, 1], "base": {"tau": 0.5}, "candidates": candidates}
        )
    )
    logged(out / "fast-s1", 500.0, 10)
    logged(out / "fast-s0", 500.0, 9)

    def train(run: Path, options: dict[str, Any], until: dict[str, float], cores: Sequence[int]) -> None:
        runs.append((run.name, options))
        if run.exists():
            shutil.rmtree(run)
        logged(run, 300.0 if "gamma" in options else 500.0, 10)

    monkeypatch.setattr(search, "train", train)
    monkeypatch.setattr(sys, "argv", ["search.py", str(file), "--out", str(out)])
    search.main()
    assert sorted(runs, key=str) == [
        ("fast-s0", {"tau": 0.5, "seed": 0}),
        ("slow-one-s0", {"tau": 0.5, "gamma": 0.9, "seed": 0}),
        ("slow-one-s1", {"tau": 0.5, "gamma": 0.9, "seed": 1}),
    ]
    table = capsys.readouterr().out.splitlines()
    # Evaluations at 2, 4, 6, 8, 10 s: returns of 600 each at 300/s, the last four 2,100; 1,000 each at 500/s.
    slow = "| slow (one) | 0.04M, 4.0 s | 0.08M, 8.0 s | 0.10M, 10.0 s | - | 2,100 | 1,000 | 10.0 |"
    fast = "| fast | 0.02M, 2.0 s | 0.04M, 4.0 s | 0.06M, 6.0 s | 0.08M, 8.0 s | 3,500 | 1,000 | 10.0 |"
    assert slow in table
    assert fast in table


@pytest.mark.parametrize("file", sorted((SWEEPS / "searches").glob("*.yaml")), ids=lambda file: file.name)
def test_candidates_are_options_that_exist(file: Path) -> None:
    search = yaml.safe_load(file.read_text())
    base = resolve(search["base"], "amx")
    assert base.total_env_steps >= search["until"].get("env_steps", 0)
    for name, options in search["candidates"].items():
        changed = resolve(search["base"] | options, "amx")
        assert (changed != base) == bool(options), name


def test_the_recipe_of_gpus_is_one_of_those_that_were_searched() -> None:
    search = yaml.safe_load((SWEEPS / "searches" / "quick_gpu.yaml").read_text())
    when = ("total_env_steps", "report_every", "eval_every")
    tried = [
        resolve(search["base"] | {k: v for k, v in options.items() if k not in when}, "gpu")
        for options in search["candidates"].values()
    ]
    assert resolve({}, "gpu") in tried
