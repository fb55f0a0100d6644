"""sweeps/suite.py trains what is left, and scores runs as shares of references; sweeps/keep.py keeps runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from td3_brax.commands.report.runs import find
from td3_brax.commands.sweep.file import load
from td3_brax.presets import resolve

SWEEPS = Path(__file__).parent.parent / "sweeps"
POLE, ANT = "InvertedPendulum-v5", "ant"


def module(name: str) -> ModuleType:
    """Load a program of ``sweeps``."""
    spec = importlib.util.spec_from_file_location(name, SWEEPS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def suite() -> ModuleType:
    return module("suite")


def write_run(place: Path, options: dict[str, Any], returns: Sequence[float]) -> None:
    """Write what a run leaves that was evaluated ``len(returns)`` times."""
    place.mkdir(parents=True)
    config = {**vars(resolve(options | {"devices": 1}, "cpu"))}
    (place / "config.json").write_text(json.dumps(config))
    each = config["total_env_steps"] // len(returns)
    reports = [
        {"env_steps": each * i, "wall_s": 60.0 * i, "eval/return_mean": value}
        for i, value in enumerate(returns, 1)
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))


def test_every_task_can_be_trained(suite: ModuleType, tmp_path: Path) -> None:
    """``td3-brax sweep`` accepts each task's file: its name, its options, and the suite's options."""
    listed = suite.load()
    assert {*suite.chosen(listed, None, short=True)} < {*suite.chosen(listed, None, short=False)}
    for name in suite.chosen(listed, None, short=False):
        path = tmp_path / "sweep.yaml"
        path.write_text(suite.sweep_file(listed, name, listed["env_steps"], {"tau": 0.1}))
        runs = list(load(path).runs(0))
        configs = [load(path).config(options, "cpu") for options in runs]
        assert [config.seed for config in configs] == listed["seeds"]
        assert {(config.env, config.tau) for config in configs} == {(name, 0.1)}


def test_every_task_has_a_part_and_a_reference_with_a_source(suite: ModuleType) -> None:
    listed = suite.load()
    for task in listed["tasks"].values():
        assert task["part"] in suite.PARTS
        assert task["reference"] > task.get("floor", 0)
        assert task["source"] in listed["sources"]
    parts = [task["part"] for task in listed["tasks"].values()]
    assert abs(parts.count("search") - parts.count("final")) <= 2
    assert all(task["part"] == "search" for task in listed["tasks"].values() if task.get("short"))


def test_a_score_is_a_share_of_the_reference_over_the_last_evaluations(
    suite: ModuleType, tmp_path: Path
) -> None:
    listed = {
        "tasks": {
            POLE: {"part": "search", "reference": 1000, "source": "limit"},
            "Reacher-v5": {"part": "final", "reference": -4, "floor": -44, "source": "paper"},
        }
    }
    for seed, returns in enumerate([[0, 100, 200, 300, 400], [900, 500, 500, 500, 500]]):
        write_run(tmp_path / POLE / f"{seed}", {"env": POLE, "seed": seed}, returns)
        reacher = {"env": "Reacher-v5", "seed": seed}
        write_run(tmp_path / "Reacher-v5" / f"{seed}", reacher, [-44, -14, -14, -14, -14])
    pole, reacher = (suite.score(listed, name, suite.read(tmp_path, name)) for name in listed["tasks"])
    np.testing.assert_allclose(np.sort(pole.returns), [250, 500])
    np.testing.assert_allclose(np.sort(pole.shares), [0.25, 0.5])
    np.testing.assert_allclose(reacher.shares, [0.75, 0.75])
    mean, low, high = suite.interval([pole, reacher])
    assert mean == pytest.approx((0.5 + 0.75) / 2)  # the middle two of 0.25, 0.5, 0.75, 0.75
    assert low == pytest.approx((0.25 + 0.75) / 2)
    assert high == pytest.approx((0.5 + 0.75) / 2)
    lines = suite.summary([pole, reacher])
    assert [line.split(":")[0] for line in lines] == ["search", "final", "all"]
    assert "worst InvertedPendulum-v5 0.38" in lines[-1]
    assert [row[0] for row in suite.rows(listed, [reacher, pole])] == [f"`{POLE}`", "`Reacher-v5`"]


@pytest.fixture
def trained(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace training by its result; return the names of the trained tasks as they come."""
    names: list[str] = []

    def train(place: Path, sweep: str, cores: Sequence[int]) -> int:
        shutil.rmtree(place, ignore_errors=True)
        parameters = yaml.safe_load(sweep)["parameters"]
        names.append(parameters["env"]["value"])
        fixed = {name: given["value"] for name, given in parameters.items() if "value" in given}
        for seed in parameters["seed"]["values"]:
            write_run(place / f"{seed + 1:03d}", fixed | {"seed": seed}, [1.0, 2.0, 3.0, 4.0, 5.0])
        return 3 if fixed["tau"] == 0.5 else 0

    monkeypatch.setattr(suite, "train", train)
    return names


def test_it_trains_what_is_left(
    suite: ModuleType, trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [f"--out={tmp_path}", f"--tasks={POLE},{ANT}", "--env_steps=1000000", '--options={"tau": 0.1}']
    assert suite.main(command) == 0
    assert sorted(trained) == [POLE, ANT]
    table = capsys.readouterr().out.partition("|")[2]
    assert (tmp_path / "suite.md").read_text() == "|" + table
    assert "1,000,000" in table

    assert suite.main(command) == 0
    assert len(trained) == 2

    lines = (tmp_path / POLE / "002" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / POLE / "002" / "metrics.jsonl").write_text("".join(lines[:-1]))  # interrupted
    assert suite.main(command) == 0
    assert trained[2:] == [POLE]

    with pytest.raises(SystemExit, match=r"has tau 0\.1, not 0\.2; use another --out"):
        suite.main([*command[:-1], '--options={"tau": 0.2}'])


def test_a_task_that_fails_is_named(
    suite: ModuleType, trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite.main([f"--out={tmp_path}", f"--tasks={POLE}", '--options={"tau": 0.5}']) == 1
    assert f"{POLE} ended with code 3, see {tmp_path / POLE}.log" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="InvertedPendulum is not a task of the suite: ant, "):
        suite.main([f"--out={tmp_path}", "--tasks=InvertedPendulum"])


@pytest.mark.slow
def test_two_tasks_are_trained(suite: ModuleType, tmp_path: Path) -> None:
    tiny = {"num_envs": 16, "batch_size": 16, "hidden_sizes": [8], "report_every": 512, "eval_episodes": 2}
    command = [f"--out={tmp_path}", f"--tasks={POLE},Reacher-v5", "--env_steps=8192"]
    assert suite.main([*command, f"--options={json.dumps(tiny)}"]) == 0
    assert (tmp_path / "suite.md").read_text().count("8,192") == 2


def test_kept_runs_name_no_path_of_the_machine(tmp_path: Path) -> None:
    """And the report finds them where they are kept, with their options and evaluations."""
    keep = module("keep")
    source, target = tmp_path / "home" / "runs", tmp_path / "results"
    write_run(source / POLE / "001", {"env": POLE, "out": str(source / POLE / "001")}, [1.0, 2.0])
    arguments = f'{{"xml": "{source}/b.xml"}}'
    command = f"__main__.py sweep {source}/a.yaml --out={source} '--env_args={arguments}' --tau=1/2"
    about = [{"command": command, "versions": {"device": "CPU"}}]
    (source / POLE / "001" / "about.json").write_text(json.dumps(about))
    (source / POLE / "001" / "policy_best.npz").write_bytes(b"large")
    assert keep.main([str(source), str(target)]) == 0
    files = [path for path in target.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["about.json", "config.json", "metrics.jsonl"]
    assert not any(str(tmp_path) in path.read_text() for path in files)
    (run,) = find([str(target)])
    assert run.config["out"] == f"{POLE}/001"
    assert run.about[0]["command"] == (
        'td3-brax sweep a.yaml --out=runs \'--env_args={"xml": "b.xml"}\' --tau=1/2'
    )
    assert [report["eval/return_mean"] for report in run.evaluations] == [1, 2]
    assert keep.main([str(tmp_path / "home" / "nothing"), str(target)]) == 1


def test_everything_that_is_kept_names_no_absolute_path() -> None:
    kept = [*(SWEEPS / "results").rglob("*.json")]
    assert len(kept) > 100
    assert [path for path in kept if re.search(r"[\"'= ]/\w+/", path.read_text())] == []
