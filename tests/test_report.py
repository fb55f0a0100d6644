"""Pages about runs: what they say against numbers worked out otherwise, from folders and from W&B's files."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from td3_brax.commands.report import paper, run, stats
from td3_brax.commands.report.algorithms import ALGORITHMS
from td3_brax.commands.report.figures import smooth
from td3_brax.commands.report.groups import group
from td3_brax.commands.report.runs import Run, find
from td3_brax.config import FIELDS
from td3_brax.presets import resolve

RNG = np.random.default_rng(0)


def made(folder: Path, returns: list[float], every: int = 5000, **options: Any) -> Path:
    """A run's folder with these greedy returns."""
    folder.mkdir(parents=True)
    config = resolve({"preset": "paper", "env": "Ant-v4"} | options, "cpu")
    values = {name: getattr(config, name) for name in FIELDS}
    (folder / "config.json").write_text(json.dumps(values))
    lines = [
        {
            "env_steps": every * (i + 1),
            "wall_s": 10.0 * (i + 1),
            "time/env_steps_per_s": 500.0,
            "eval/return_mean": value,
            "eval/return_std": 1.0,
            "eval/length_mean": 1000.0,
            "eval/q_mean": 2 * value,
            "eval/q_true": value / 2,
        }
        for i, value in enumerate(returns)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"env_steps": 99')  # as a killed process leaves it
    about = [{"command": "td3-brax train", "versions": {"jax": "0", "device": "a device"}}]
    (folder / "about.json").write_text(json.dumps(about))
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def trials(tmp_path: Path) -> dict[str, np.ndarray]:
    """Four trials of TD3 and three of DDPG's ablation: 30 evaluations each."""
    every = {}
    for algo, count in (("td3", 4), ("our-ddpg", 3)):
        every[algo] = RNG.normal(1000, 300, (count, 30)).cumsum(axis=1) / 10
        for seed, returns in enumerate(every[algo]):
            made(tmp_path / algo / str(seed), returns.tolist(), seed=seed, **ALGORITHMS[algo].options)
    return every


def test_what_a_page_says_is_what_numpy_says(trials: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert run.main([str(tmp_path)]) == 0
    points = rows(tmp_path / "report" / "curves.csv")
    for algo, returns in trials.items():
        own = [row for row in points if row["experiment"] == ALGORITHMS[algo].title]
        assert [int(row["env_steps"]) for row in own] == [5000 * (i + 1) for i in range(30)]
        for name, expected in {
            "mean": returns.mean(axis=0),
            "half_std": returns.std(axis=0) / 2,
            "iqm": middle_half(returns),
            "q_mean": 2 * returns.mean(axis=0),
            "q_true": returns.mean(axis=0) / 2,
        }.items():
            np.testing.assert_allclose([float(row[name]) for row in own], expected, rtol=1e-5)
    best = {row["experiment"]: row for row in rows(tmp_path / "report" / "best.csv")}
    mean = trials["td3"].mean(axis=0)
    at = mean.argmax()
    deviation = trials["td3"].std(axis=0)[at]
    assert best["TD3"]["max average return"] == f"{mean[at]:,.0f} ± {deviation:,.0f}"
    assert best["TD3"]["at step"] == f"{5000 * (at + 1):,}"
    assert best["TD3"]["published, 1M steps (v1)"] == "4,372 ± 1,000"
    assert best["our DDPG (AHE)"]["published, 1M steps (v1)"] == "889"
    last = {row["experiment"]: row for row in rows(tmp_path / "report" / "last.csv")}
    for algo, returns in trials.items():
        ends = returns[:, -10:].mean(axis=1)
        said = last[ALGORITHMS[algo].title]["average of the last 10 evaluations"]
        assert said == f"{ends.mean():,.0f} ± {ends.std():,.0f}"
    assert len(rows(tmp_path / "report" / "evaluations.csv")) == 7 * 30


def test_the_film_of_the_best_run_is_on_the_page(tmp_path: Path) -> None:
    for name, returns in {"worse": [1.0, 2.0], "best": [1.0, 9.0], "unfilmed": [1.0, 99.0]}.items():
        folder = made(tmp_path / name, returns, seed=len(name))
        if name != "unfilmed":
            (folder / "film.mp4").write_bytes(f"film of {name}".encode())
    assert run.main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    films = [base64.b64decode(data) for data in re.findall('data:video/mp4;base64,([^"]+)', page)]
    assert films == [b"film of best"]


class Outside(HTMLParser):
    """Whatever a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href"):
                self.images += tag == "img"
                if not str(value).startswith(("data:", "#")):
                    self.found.append(str(value))
        assert tag not in ("script", "link", "iframe")


def test_the_page_needs_nothing_else(trials: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert run.main([str(tmp_path), "--out", str(tmp_path / "page"), "--title", "<b>&"]) == 0
    text = (tmp_path / "page" / "report.html").read_text()
    page = Outside()
    page.feed(text)
    assert page.found == []
    assert page.images == 4
    assert "url(" not in text
    assert "<title>&lt;b&gt;&amp;</title>" in text
    assert "<h1>&lt;b&gt;&amp;</h1>" in text
    for picture in ("learning", "robust", "trials", "overestimation"):
        with Image.open(tmp_path / "page" / "report" / f"{picture}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert min(image.size) > 300
        assert 0.01 < (pixels < 200).mean() < 0.5
    before = text
    assert run.main([str(tmp_path), "--out", str(tmp_path / "page"), "--title", "<b>&"]) == 0
    assert (tmp_path / "page" / "report.html").read_text() == before


def test_runs_that_wandb_keeps_are_the_same_runs(tmp_path: Path) -> None:
    returns = [100.0, 250.0, 175.5]
    made(tmp_path / "ours" / "run", returns, seed=3)
    code = f"""
import json, wandb
config = json.load(open({str(tmp_path / "ours" / "run" / "config.json")!r}))
quiet = wandb.Settings(console="off", silent=True)
run = wandb.init(mode="offline", project="p", config=config, dir={str(tmp_path)!r}, settings=quiet)
for line in open({str(tmp_path / "ours" / "run" / "metrics.jsonl")!r}).read().splitlines()[:-1]:
    run.log(json.loads(line))
run.finish()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path)
    (ours,) = find([str(tmp_path / "ours")])
    for place in (tmp_path / "wandb", next((tmp_path / "wandb").glob("offline-run-*"))):
        (theirs,) = find([str(place)])
        assert theirs.config == ours.config
        assert theirs.reports == ours.reports
    together = group([ours, theirs])
    assert len(together) == 1
    assert together[0].algorithm == "td3"


def test_groups_are_named_by_what_differs(tmp_path: Path) -> None:
    made(tmp_path / "a", [1.0], gamma=0.9, seed=0)
    made(tmp_path / "b", [2.0], gamma=0.9, seed=1)
    made(tmp_path / "c", [3.0], gamma=0.8, seed=0)
    made(tmp_path / "d", [4.0], env="ant", seed=0)
    assert run.main([str(tmp_path)]) == 0
    groups = group(find([str(tmp_path)]))
    assert [(g.env, g.label, len(g.runs)) for g in groups] == [
        ("Ant-v4", "--gamma=0.9", 2),
        ("Ant-v4", "--gamma=0.8", 1),
        ("ant", "TD3", 1),
    ]


QUICK = {"preset": "quick", "env": "ant"}


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        # What presets differ in has their names; what was chosen beside them is said.
        ([QUICK, {"env": "ant", "gamma": 0.9}], ["quick", "paper --gamma=0.9"]),
        ([QUICK | {"num_envs": 4}, {"env": "ant"}], ["TD3", "quick --num_envs=4"]),
        ([QUICK | {"tau": 0.1}, QUICK | {"tau": 0.2}], ["--tau=0.1", "--tau=0.2"]),
        # What is chosen for all of them sets none apart.
        ([QUICK | {"batch_size": 64}, {"env": "ant", "batch_size": 64}], ["quick", "paper"]),
        # Runs that differ in length differ in that, not in the warm-up that follows from it.
        (
            [QUICK | {"total_env_steps": 200_000}, QUICK],
            ["quick --total_env_steps=200000", "quick --total_env_steps=8000000"],
        ),
        ([{"total_env_steps": 200_000}, {"total_env_steps": 10_000}], ["TD3"]),
        # The paper's algorithm with either preset, and beside itself.
        ([{}, {"preset": "author"}], ["TD3 (paper)", "TD3 (author)"]),
        ([{}, {"num_envs": 25}], ["TD3 --num_envs=1", "TD3 --num_envs=25"]),
        (
            [{"preset": "our-ddpg"}, {"policy_delay": 1, "target_noise": 0, "num_critics": 1}],
            ["our DDPG (AHE)"],
        ),
        # Numbers in few digits, unless they tell runs apart.
        ([{"gamma": 0.1234567}, {"gamma": 0.2}], ["--gamma=0.1235", "--gamma=0.2"]),
        (
            [{"gamma": 0.1234567}, {"gamma": 0.1234568}],
            ["--gamma=0.1235 --gamma=0.1234567", "--gamma=0.1235 --gamma=0.1234568"],
        ),
    ],
)
def test_labels(runs: list[dict[str, Any]], labels: list[str], tmp_path: Path) -> None:
    for i, options in enumerate(runs):
        made(tmp_path / str(i), [1.0], **options)
    assert [own.label for own in group(find([str(tmp_path)]))] == labels


def test_a_presets_runs_on_two_kinds_of_devices_have_their_names(tmp_path: Path) -> None:
    made(tmp_path / "cpu", [1.0], **QUICK)
    there = resolve(QUICK, "gpu")
    text = json.dumps({name: getattr(there, name) for name in FIELDS})
    (made(tmp_path / "gpu", [1.0], **QUICK) / "config.json").write_text(text)
    assert [own.label for own in group(find([str(tmp_path)]))] == ["quick (CPU)", "quick (GPU)"]


CHOICES = {
    "preset": ["quick", "paper", "author", "our-ddpg"],
    "num_envs": [1, 25],
    "total_env_steps": [10_000, 2_000_000],
    "lr_decay": [0.0, 0.5],
    "tau": [0.005, 0.0050001],
    "target_noise": [0.0, 0.2],
}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in CHOICES.items()}),
        min_size=2,
        max_size=6,
    )
)
def test_no_two_groups_of_a_task_have_the_same_label(runs: list[dict[str, Any]]) -> None:
    every = [
        Run(
            str(i),
            dataclasses.asdict(resolve({"preset": "paper", "env": "Ant-v4"} | options, "cpu")),
            [],
            [],
            None,
        )
        for i, options in enumerate(runs)
    ]
    groups = group(every)
    assert len({own.label for own in groups}) == len(groups)
    assert sum(len(own.runs) for own in groups) == len(runs)


def texts(figure: Any) -> list[Any]:
    legend = figure.legends[0]
    return [*legend.get_texts(), *(ax.title for ax in figure.axes)]


def test_pictures_hold_what_they_say_however_long_and_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Legends and titles are within the picture, apart from the panels, which stay large."""
    import matplotlib.pyplot as plt

    names = [
        "tau",
        "gamma",
        "actor_lr",
        "critic_lr",
        "exploration_noise",
        "target_noise",
        "target_noise_clip",
    ]
    for i in range(16):
        options = dict.fromkeys(names, (i + 1) / 10000.0 + 1e-07)
        env = f"my_long_package.tasks.locomotion:QuadrupedOnRoughTerrain{i // 8}"
        made(tmp_path / str(i), [1.0, 2.0], env=env, **options)
    seen = []

    def look(figure: Any) -> None:
        seen.append(figure)
        figure.canvas.draw()
        whole = figure.bbox
        for text in texts(figure):
            box = text.get_window_extent()
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text.get_text()
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text.get_text()
        top = figure.legends[0].get_window_extent().y1
        panels = [ax.get_window_extent() for ax in figure.axes]
        assert all(box.y0 > top for box in panels)
        assert all(box.height > figure.dpi and box.width > figure.dpi for box in panels)
        lines = [line for line in figure.legends[0].get_lines() if not line.get_label().endswith("true")]
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)

    monkeypatch.setattr(plt, "close", look)
    assert run.main([str(tmp_path)]) == 0
    assert len(seen) == 4


def test_a_single_evaluation_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    made(tmp_path / "0", [0.01], env="ant")
    made(tmp_path / "1", [0.02], env="ant", seed=1)
    seen = []

    def look(figure: Any) -> None:
        seen.append(figure)
        for line in figure.axes[0].get_lines():
            assert line.get_marker() == "o"

    monkeypatch.setattr(plt, "close", look)
    assert run.main([str(tmp_path)]) == 0
    assert len(seen) == 4
    (best,) = rows(tmp_path / "report" / "best.csv")
    assert best["max average return"] == "0.0150 ± 0.0050"
    (reached,) = {row["return"] for row in rows(tmp_path / "report" / "speed.csv")} & {"0.0200"}
    assert reached


def test_trials_evaluated_at_other_steps_are_listed_but_not_averaged(tmp_path: Path) -> None:
    made(tmp_path / "a", [1.0, 2.0], seed=0)
    made(tmp_path / "b", [2.0, 3.0], seed=1, every=5001)
    assert run.main([str(tmp_path)]) == 0
    assert rows(tmp_path / "report" / "curves.csv") == []
    assert len(rows(tmp_path / "report" / "runs.csv")) == 2


def test_one_damaged_run_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "good", [1.0, 2.0])
    bad = made(tmp_path / "bad", [1.0, 2.0]) / "metrics.jsonl"
    first = bad.read_text().partition("\n")[0]
    gone = made(tmp_path / "gone", [1.0])
    (gone / "metrics.jsonl").unlink()
    (gone / "policy_last.npz").touch()
    for line in ("{", "5", "{}", '{"env_steps": "1"}', '{"env_steps": 1, "eval/return_mean": []}'):
        bad.write_text(f"{first}\n{line}\n")
        assert run.main([str(tmp_path)]) == 1
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        assert len(lines) == 2
        assert str(bad) in lines[0]
        assert "line 2" in lines[0]
        assert str(gone / "metrics.jsonl") in lines[1]
        page = (tmp_path / "report.html").read_text()
        assert str(bad) in page
        assert str(gone) in page
        (good,) = rows(tmp_path / "report" / "runs.csv")
        assert good["run"] == str(tmp_path / "good")


def test_a_run_that_is_named_twice_is_one_trial(tmp_path: Path) -> None:
    made(tmp_path / "runs" / "a", [1.0])
    paths = [tmp_path / "runs", tmp_path / "runs" / "a", tmp_path / "runs" / ".." / "runs"]
    assert len(find(list(map(str, paths)))) == 1


@pytest.mark.parametrize(
    ("returns", "goals"),
    [
        ([0.0, 4875.0], [1000, 2000, 3000, 4000]),
        ([0.0, 40.0], [10, 20, 30, 40]),
        ([0.001, 0.015], [0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.014]),
        ([-50.0, -4.0], [-40, -30, -20, -10]),
        ([-1.0, -2.0], []),
        ([0.0, 0.0], []),
    ],
)
def test_goals_are_round_and_on_the_way(returns: list[float], goals: list[float]) -> None:
    one = SimpleNamespace(evaluations=[{"eval/return_mean": value} for value in returns])
    whole: Any = SimpleNamespace(runs=[one])
    np.testing.assert_allclose(stats.goals(whole, None), goals)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: None, "nothing"),
        (lambda f: (f / "nothing").mkdir(), "metrics.jsonl"),
        (lambda f: made(f / "nothing", []), "nothing"),
        (
            lambda f: (made(f / "nothing", [1.0]) / "metrics.jsonl").write_text("{\n"),
            "nothing/metrics.jsonl",
        ),
        (lambda f: (made(f / "nothing", [1.0]) / "about.json").write_text("{}"), "nothing/about.json"),
        (
            lambda f: (made(f / "nothing", [1.0]) / "config.json").write_text('{"gamma": 7}'),
            "nothing/config.json.*--gamma=7",
        ),
    ],
)
def test_what_is_no_run(spoil: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(tmp_path)
    assert run.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "page")]) == 2
    errors = capsys.readouterr().err
    assert re.search(says, errors)
    assert errors.count("\n") == 1
    assert not (tmp_path / "page").exists()


def middle_half(values: np.ndarray) -> np.ndarray:
    cut = len(values) // 4
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(axis=0)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=12))
def test_the_interquartile_mean_and_its_interval(values: list[list[float]]) -> None:
    array = np.array(values)
    np.testing.assert_allclose(stats.iqm(array), middle_half(array), atol=1e-8)
    low, high = stats.interval(array)
    drawn = np.random.default_rng(0).integers(len(array), size=(2000, len(array)))
    means = [middle_half(array[trials]) for trials in drawn]
    np.testing.assert_allclose([low, high], np.percentile(means, [2.5, 97.5], axis=0), atol=1e-8)
    assert (low <= high + 1e-9).all()
    assert (array.min(axis=0) - 1e-9 <= low).all()
    assert (high <= array.max(axis=0) + 1e-9).all()


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of normal trials: a percentile bootstrap of ten is known to be some points short of 95%."""
    low, high = stats.interval(np.random.default_rng(1).normal(size=(10, 1000)))
    assert 0.85 < ((low < 0) & (high > 0)).mean() < 0.97


def test_smoothing_keeps_lines_and_means() -> None:
    line = np.linspace(0, 1, 500)
    np.testing.assert_allclose(smooth(line)[10:-10], line[10:-10])
    assert smooth(line).shape == line.shape
    few = RNG.normal(size=(3, 40))
    np.testing.assert_array_equal(smooth(few), few)


def test_reaching_a_return() -> None:
    reports = [{"env_steps": 10 * i, "eval/return_mean": float(i * i), "wall_s": float(i)} for i in range(9)]
    one: Any = SimpleNamespace(evaluations=reports)
    assert stats.reached(one, 16) == (40, 4.0)
    assert stats.reached(one, 17) == (50, 5.0)
    assert stats.reached(one, 1e9) is None
    assert stats.median_reached([one], 1e9) is None


def test_what_was_published_agrees_with_itself() -> None:
    """Table 1 is the highest point of the published curve; table 2 is near its end."""
    curves = paper.curves()
    assert set(curves) == set(paper.TASKS) == set(paper.BEST)
    for task, curve in curves.items():
        assert curve.env_steps[0] == 0
        assert curve.env_steps[-1] == 1_000_000
        score = paper.BEST[task]["td3"]
        top = curve.mean.argmax()
        spread = max(2 * curve.half_std[top], 1.0)
        assert curve.mean[top] <= score.mean + 1e-2
        assert score.mean - curve.mean[top] < spread
        assert math.isclose(curve.at(12_500), (curve.mean[0] + curve.mean[1]) / 2)
    for task, value in paper.LAST["td3"].items():
        assert abs(curves[task].mean[-4:].mean() - value) < 0.05 * value
    assert paper.family("Ant-v5") == "Ant"
    assert paper.family("Swimmer-v5") is None
    assert paper.family("ant") is None
