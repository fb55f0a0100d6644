"""Pages about runs: what they say against numbers worked out otherwise, from folders and from W&B's files."""

from __future__ import annotations

import base64
import csv
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
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from td3_brax.config import FIELDS
from td3_brax.presets import resolve
from td3_brax.report import run, stats
from td3_brax.report.figures import smooth
from td3_brax.report.runs import find, group
from td3_brax.reproduce import paper
from td3_brax.reproduce.algorithms import ALGORITHMS

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
        own = [row for row in points if row["algorithm"] == ALGORITHMS[algo].title]
        assert [int(row["env_steps"]) for row in own] == [5000 * (i + 1) for i in range(30)]
        for name, expected in {
            "mean": returns.mean(axis=0),
            "half_std": returns.std(axis=0) / 2,
            "iqm": scipy.stats.trim_mean(returns, 0.25, axis=0),
            "q_mean": 2 * returns.mean(axis=0),
            "q_true": returns.mean(axis=0) / 2,
        }.items():
            np.testing.assert_allclose([float(row[name]) for row in own], expected, rtol=1e-5)
    best = {row["algorithm"]: row for row in rows(tmp_path / "report" / "best.csv")}
    mean = trials["td3"].mean(axis=0)
    at = mean.argmax()
    deviation = trials["td3"].std(axis=0)[at]
    assert best["TD3"]["max average return"] == f"{mean[at]:,.0f} ± {deviation:,.0f}"
    assert best["TD3"]["at step"] == f"{5000 * (at + 1):,}"
    assert best["TD3"]["published, 1M steps (v1)"] == "4,372 ± 1,000"
    assert best["our DDPG (AHE)"]["published, 1M steps (v1)"] == "889"
    last = {row["algorithm"]: row for row in rows(tmp_path / "report" / "last.csv")}
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


def test_trials_evaluated_at_other_steps_are_listed_but_not_averaged(tmp_path: Path) -> None:
    made(tmp_path / "a", [1.0, 2.0], seed=0)
    made(tmp_path / "b", [2.0, 3.0], seed=1, every=5001)
    assert run.main([str(tmp_path)]) == 0
    assert rows(tmp_path / "report" / "curves.csv") == []
    assert len(rows(tmp_path / "report" / "runs.csv")) == 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: None, r"nothing: no such folder"),
        (lambda f: (f / "nothing").mkdir(), r"nothing: no run is there \(neither metrics.jsonl nor"),
        (lambda f: made(f / "nothing", []), "no run there was evaluated yet"),
        (
            lambda f: (made(f / "nothing", [1.0]) / "metrics.jsonl").write_text("{\n"),
            r"nothing: can't be read \(Expecting property name",
        ),
        (
            lambda f: (made(f / "nothing", [1.0]) / "config.json").write_text('{"gamma": 7}'),
            r"nothing: its options can't be used \(--gamma=7: must be at most 1\)",
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


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=12))
def test_the_interquartile_mean_is_scipys(values: list[list[float]]) -> None:
    array = np.array(values)
    expected = scipy.stats.trim_mean(array, 0.25, axis=0)
    np.testing.assert_allclose(stats.iqm(array), expected, atol=1e-8)
    low, high = stats.interval(array)
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
