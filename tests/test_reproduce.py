"""``td3-brax reproduce``: what it refuses, what it makes, and that stopping it changes nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from said import names
from test_run import wait_for
from test_wandb import kept

from td3_brax.commands.report.algorithms import ALGORITHMS, algorithm_of
from td3_brax.commands.reproduce import run
from td3_brax.config import Config
from td3_brax.names import PRESETS
from td3_brax.presets import resolve

SMALL = [
    "--envs=InvertedPendulum-v4",
    "--seeds=2",
    "--steps=4000",
    "--devices=1",
    "--num_envs=8",
    "--hidden_sizes=[16,16]",
    "--batch_size=16",
    "--replay_capacity=1000",
    "--report_every=400",
    "--eval_every=400",
    "--eval_episodes=2",
    "--checkpoint_every_min=0.002",
]


def command(out: Path, *argv: str) -> subprocess.Popen[str]:
    """The small version in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.Popen(
        [sys.executable, "-m", "td3_brax", "reproduce", *SMALL, *argv, f"--out={out}"],
        env=clean | {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(out.parent), "MUJOCO_GL": "disable"},
        cwd=out.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == code, printed
    return printed


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two algorithms that nothing stopped, and what was printed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, finish(command(out, "--algos=td3,our-ddpg", "--wandb=offline"))


def test_what_it_makes(whole: tuple[Path, str]) -> None:
    out, printed = whole
    assert printed.splitlines()[-1].endswith(str(out / "report.html"))
    assert names(printed.splitlines()[0], ["InvertedPendulum-v4", "TD3", "2", "4,000", "1", "2"])
    assert printed.count("no film") == 1
    for algo in ("td3", "our-ddpg"):
        for seed in (0, 1):
            trial = out / "InvertedPendulum-v4" / algo / f"{seed + 1:03d}"
            config = json.loads((trial / "config.json").read_text())
            assert config["seed"] == seed
            assert config["preset"] == "paper"
            assert config["spread_phases"]
            assert {name: config[name] for name in ALGORITHMS[algo].options} == ALGORITHMS[algo].options
            reports = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
            assert [r["env_steps"] for r in reports] == [400 * (i + 1) for i in range(10)]
            assert [r["updates"] for r in reports] == [r["env_steps"] for r in reports]
            assert all(r["eval/q_mean"] is not None and r["eval/q_true"] > 0.9 for r in reports)
            real = json.loads((trial / "gymnasium.json").read_text())
            assert real["episodes"] == 10
            # The same policy on the same task, but other initial states.
            assert abs(real["return_mean"] - reports[-1]["eval/return_mean"]) < 0.5 * real["return_mean"] + 5
    trials = rows(out / "report" / "runs.csv")
    assert len(trials) == 4
    assert all(row["last policy in Gymnasium"] for row in trials)
    assert [row["experiment"] for row in trials] == ["TD3"] * 2 + ["our DDPG (AHE)"] * 2
    page = (out / "report.html").read_text()
    assert re.search(r"preset paper: --num_envs=8\b", page)
    assert "td3-brax reproduce --envs=InvertedPendulum-v4" in page
    differs = page.partition("What differs from the paper")[2].partition("</ul>")[0]
    assert names(differs, ["8", "4,000", "2"])


def test_trials_together_are_one_more_run_on_wandb(whole: tuple[Path, str]) -> None:
    out, _ = whole
    folder = out / "InvertedPendulum-v4" / "td3"
    noted = json.loads((folder / "aggregate.json").read_text())
    (place,) = (folder / "wandb").glob(f"offline-run-*-{noted['wandb_id']}")
    lines = kept(f"send it to W&B with: wandb sync {place}")
    points = rows(out / "report" / "curves.csv")[:10]
    assert [line["env_steps"] for line in lines] == [int(row["env_steps"]) for row in points]
    for line, row in zip(lines, points, strict=True):
        assert line["eval/return_mean"] == pytest.approx(float(row["mean"]), rel=1e-5)
        assert line["eval/return_iqm_high"] == pytest.approx(float(row["iqm_high"]), rel=1e-5)


@pytest.mark.slow
def test_stopped_three_times_it_makes_the_same_page(whole: tuple[Path, str], tmp_path: Path) -> None:
    """In the first part, by kill -9; there again, by SIGTERM; and in the second, by Ctrl-C."""
    out = tmp_path / "out"
    parts = [out / "InvertedPendulum-v4" / algo for algo in ("td3", "our-ddpg")]

    def lines(part: Path) -> int:
        metrics = part / "001" / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    for part, least, number, code in (
        (parts[0], 2, signal.SIGKILL, -9),
        (parts[0], 5, signal.SIGTERM, 75),
        (parts[1], 3, signal.SIGINT, 130),
    ):
        process = command(out, "--algos=td3,our-ddpg")
        wait_for(lambda part=part, least=least: lines(part) >= least, process, 240)
        if code == -9:
            until = time.monotonic() + 60
            while not list(part.glob("checkpoints/[0-9]*")) and time.monotonic() < until:
                time.sleep(0.01)
        process.send_signal(number)
        printed = finish(process, code)
        assert code == -9 or printed.splitlines()[-1] == "stopped; run the same command again to continue"
    finish(command(out, "--algos=td3,our-ddpg"))
    for name in ("curves", "evaluations", "best", "last"):
        ours, theirs = (rows(place / "report" / f"{name}.csv") for place in (out, whole[0]))
        assert [{k: v for k, v in row.items() if k != "run"} for row in ours] == [
            {k: v for k, v in row.items() if k != "run"} for row in theirs
        ]
    for name in ("learning", "robust", "trials", "overestimation"):
        ours, theirs = ((place / "report" / f"{name}.png").read_bytes() for place in (out, whole[0]))
        assert ours == theirs


def test_what_is_finished_is_not_run_again(whole: tuple[Path, str]) -> None:
    """More seeds and algorithms go into the same folder; the page is about all of them."""
    out, _ = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")}
    printed = finish(command(out, "--algos=td3", "--seeds=3"))
    assert "003 done" in printed
    assert "001 done" not in printed
    assert {path: path.stat().st_mtime_ns for path in before} == before
    counts = [row["trials"] for row in rows(out / "report" / "best.csv")]
    assert counts == ["3", "2"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--envs=Ant"], ["--envs=Ant", "Ant-v5", "Ant-v4"]),
        (["--envs=Antv4"], ["--envs=Antv4", "Ant-v4", "Ant-v4"]),
        (["--envs=Swimmer-v4"], ["--envs=Swimmer-v4", "Swimmer-v4"]),
        (["--algos=td3,tps"], ["--algos=td3,tps", "tps", "td3", "td3-dp"]),
        (["--seeds=0"], ["--seeds=0", "1"]),
        (["--steps=many"], ["--steps=many"]),
        (["--preset=quick"], ["--preset=quick", "paper", "author"]),
        (["--checkpoint_replay=false"], ["--checkpoint_replay"]),
        (["--env=Ant-v4"], ["--env", "envs"]),
        (["--gamma=2"], ["--gamma=2", "1"]),
        (["--num_envs=3", "--updates_per_env_step=0.001"], ["--updates_per_env_step=0.001", "--num_envs=3"]),
        (["--devices=99"], ["--devices=99", "8"]),
    ],
)
def test_wrong_options(
    argv: list[str], says: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run.main([*argv, f"--out={tmp_path / 'out'}"])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    errors = capsys.readouterr().err
    assert names(errors, says), errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_experiments_is_refused(
    whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*SMALL, "--steps=8000", f"--out={whole[0]}"]) == 2
    assert names(capsys.readouterr().err, [f"--out={whole[0]}", "steps", "4000", "8000"])
    assert run.main([*SMALL, "--gamma=0.9", f"--out={whole[0]}"]) == 2
    assert names(capsys.readouterr().err, [f"--out={whole[0]}", "options"])
    (tmp_path / "mine").write_text("")
    assert run.main([*SMALL, f"--out={tmp_path}"]) == 2
    assert names(capsys.readouterr().err, [f"--out={tmp_path}"])


@pytest.mark.parametrize("preset", ["paper", "author"])
@pytest.mark.parametrize("algo", list(ALGORITHMS))
def test_an_algorithm_is_known_by_its_options(preset: str, algo: str) -> None:
    def options(**changes: Any) -> dict[str, Any]:
        config: Config = resolve({"preset": preset, "env": "Hopper-v4", **changes}, "cpu")
        return vars(config)

    own = options(**ALGORITHMS[algo].options, num_envs=25, seed=7)
    assert algorithm_of(own, options()) == algo
    assert algorithm_of(own | {"gamma": 0.5}, options()) is None


def test_a_name_that_presets_and_algorithms_share_means_one_thing() -> None:
    both = set(PRESETS) & set(ALGORITHMS)
    assert both == {"our-ddpg"}
    for name in both:
        ours = vars(resolve({"preset": name, "env": "Ant-v4"}, "cpu"))
        theirs = vars(resolve({"preset": "paper", "env": "Ant-v4", **ALGORITHMS[name].options}, "cpu"))
        assert {**ours, "preset": ""} == {**theirs, "preset": ""}


@pytest.mark.parametrize(
    ("options", "spread"), [({}, True), ({"num_envs": 1}, False), ({"num_envs": 5}, True)]
)
def test_episodes_of_many_environments_begin_as_evenly_as_of_one(
    options: dict[str, Any], spread: bool, tmp_path: Path
) -> None:
    plan = run.Plan("paper", 1000, False, "cpu", options)
    request = run.Request(["Hopper-v4"], ["td3"], 1, 1000)
    (experiment,) = run.experiments(request, plan, tmp_path)
    assert experiment.jobs[0].config.spread_phases == spread
