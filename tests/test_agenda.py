"""The agenda for a GPU, rehearsed on a CPU: no second of a GPU goes to a typing error."""

from __future__ import annotations

import importlib.util
import json
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from td3_brax.cli import parse_train
from td3_brax.commands.reproduce import options
from td3_brax.commands.sweep.file import load
from td3_brax.presets import resolve


@pytest.fixture(scope="module")
def agenda() -> ModuleType:
    path = Path(__file__).parent / "gpu" / "agenda.py"
    spec = importlib.util.spec_from_file_location("agenda", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["agenda"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_every_part_is_a_command_that_can_be_typed(agenda: ModuleType) -> None:
    kinds = set()
    for part in agenda.agenda():
        kinds.add(part.argv[0])
        for command, *argv in (part.argv, part.ahead or part.argv):
            if command == "reproduce":
                asked, _ = options.parse(argv)
                assert asked.seeds == asked.members == part.runs
            elif command == "train":
                explicit, _ = parse_train(argv)
                assert resolve(explicit, "gpu").checkpoint_every_min == 0
            elif command == "sweep":
                assert load(Path(argv[0])).runs is not None
            else:
                assert Path(command).is_file()
    assert {"reproduce", "train", "sweep"} < kinds
    names = [part.name for part in agenda.agenda()]
    assert len(set(names)) == len(names)


def test_what_is_kept_is_skipped_if_a_gpu_made_it_to_its_end(
    agenda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agenda, "KEPT", tmp_path)
    part = agenda.reproduce("Ant", "td3", 2, 1000)
    assert not agenda.is_kept(part)
    for number in (1, 2):
        run = tmp_path / part.kept / f"{number:03d}"
        run.mkdir(parents=True)
        (run / "about.json").write_text(json.dumps([{"versions": {"device": "NVIDIA H100, 1"}}]))
        (run / "metrics.jsonl").write_text(json.dumps({"env_steps": 1000}) + "\n")
    assert agenda.is_kept(part)
    assert not agenda.is_kept(agenda.reproduce("Ant", "td3", 3, 1000))
    assert not agenda.is_kept(agenda.reproduce("Ant", "td3", 2, 2000))
    (run / "about.json").write_text(json.dumps([{"versions": {"device": "a CPU, 2 cores"}}]))
    assert not agenda.is_kept(part)


TOY = [
    *("--num_envs=4", "--hidden_sizes=[8]", "--batch_size=8", "--replay_capacity=2000", "--report_every=200"),
    *("--eval_every=200", "--eval_episodes=2", "--time_limit=30", "--warmup_env_steps=40", "--devices=1"),
]


def toy(agenda: ModuleType, name: str, steps: int) -> object:
    argv = ["train", "--env", "odd:Point", *TOY, "--checkpoint_every_min=0", "--total_env_steps"]
    return agenda.Part(name, [*argv, str(steps)], [*argv, "200"])


def test_it_goes_down_the_list_until_the_budget_is_used(
    agenda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, ahead_of_time, runs = 1000.0, [0.0], tmp_path / "parts" / "04" / "runs"

    def clock() -> float:
        """Jump to 20 seconds before the end as soon as the part without an end has reported."""
        now = time.perf_counter()
        if not ahead_of_time[0] and bool(agenda.reports(runs)):
            ahead_of_time[0] = began + budget - 20 - now
        return now + ahead_of_time[0]

    began = clock()
    monkeypatch.setattr(agenda, "time", SimpleNamespace(perf_counter=clock, sleep=time.sleep))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of odd.py
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    parts = [
        agenda.Part("a peer", ["peer.py"], runs=0, needs="no_such_package"),
        agenda.Part("a mistake", ["train", "--env", "nothing"]),
        toy(agenda, "short", 400),
        toy(agenda, "long", 1_000_000_000),
        toy(agenda, "not reached", 400),
    ]
    rows = agenda.run(parts, budget, tmp_path)
    results = [row[3] for row in rows]
    assert results[0] == "not run: no_such_package is not installed"
    assert "--env=nothing" in results[1]
    assert results[2].startswith("1 runs, 512 steps")
    assert results[3].startswith("1 runs, ")  # stopped, and kept as far as it went
    assert results[4] == "not run"
    assert "from the cache" in (tmp_path / "parts" / "04" / "log.txt").read_text()  # compiled ahead
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        names = archive.getnames()
        table = archive.extractfile("agenda.md")
        assert table
        assert table.read().decode().count("\n") == 2 + len(parts)
    assert sum(name.endswith("metrics.jsonl") for name in names) == 2
    assert not any(name.endswith(".npz") or "checkpoint" in name for name in names)
