"""TensorBoard's own reader finds in the event files what is in ``metrics.jsonl``, each step once."""

from __future__ import annotations

import errno
import importlib.util
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import names
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_run import read_reports
from toy import ARGV

from td3_brax import train
from td3_brax.runs import checkpoint
from td3_brax.runs.tensorboard import EventFiles

Scalars = dict[str, list[tuple[int, float]]]
"""Steps and values of each metric."""


def scalars(out: Path) -> Scalars:
    """Return what TensorBoard shows of the run in ``out``."""
    found = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def of(reports: list[dict[str, Any]]) -> Scalars:
    """Return what it should show of these reports: whatever is finite, as 32-bit numbers."""
    found: Scalars = {}
    for report in reports:
        for name, value in report.items():
            if name != "env_steps" and value is not None and math.isfinite(value):
                found.setdefault(name, []).append((report["env_steps"], float(np.float32(value))))
    return found


def written(out: Path) -> Scalars:
    """Return what it should show of the run in ``out``."""
    return of(read_reports(out))


class Stopping(train.Run):
    """Saves after each of the first chunks; Ctrl-C comes in the fifth."""

    def _chunk(self, signals: train.Signals) -> int:
        self._saved = -1e9 if self.record.outcome.chunk < 3 else 1e9
        if self.record.outcome.chunk == 4:
            signal.raise_signal(signal.SIGINT)
        return super()._chunk(signals)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped; its last report has an evaluation that the whole run does not have."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Run", Stopping)
        argv = [*ARGV, "--eval_every=512", "--total_env_steps=2048", "--tensorboard", "--checkpoint_keep=9"]
        assert train.main([*argv, f"--out={out}"]) == 130
    assert len(read_reports(out)) == 5
    assert "eval/return_mean" in read_reports(out)[-1]
    return out


def test_it_shows_what_is_in_the_metrics(interrupted: Path) -> None:
    found = scalars(interrupted)
    assert found == written(interrupted)
    assert [step for step, _ in found["eval/return_mean"]] == [512, 1024, 1280]
    assert [step for step, _ in found["loss/critic"]] == [768, 1024, 1280]  # there are none in the warm-up


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_resumed_run_shows_no_step_twice(interrupted: Path, tmp_path: Path, lost: int) -> None:
    """From its last checkpoint, and from one two reports before, as after a kill."""
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    for path in checkpoint.saved(out)[: bool(lost)]:
        shutil.rmtree(path)
    assert int(checkpoint.saved(out)[0].name) == 1280 - 256 * lost
    assert train.main([f"--resume={out}"]) == 0
    assert len(list((out / "tensorboard").iterdir())) == 2
    found = scalars(out)
    assert found == written(out)
    assert [step for step, _ in found["wall_s"]] == list(range(256, 2049, 256))
    assert [step for step, _ in found["eval/return_mean"]] == [512, 1024, 1536, 2048]


@pytest.mark.slow
def test_it_can_be_switched_on_later(interrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    shutil.rmtree(out / "tensorboard")
    assert train.main([f"--resume={out}", "--tensorboard"]) == 0
    assert scalars(out) == written(out)
    assert len(read_reports(out)) == 8


def test_a_disk_that_fails_for_a_while_costs_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that can't be made, then a file that can't be flushed, half of which is on disk."""
    said: list[str] = []
    events = EventFiles(tmp_path, said.append)
    reports = [{"env_steps": step, "a/b": step / 7, "none": None, "odd": math.nan} for step in range(1, 9)]
    (tmp_path / "tensorboard").write_text("")
    for report in reports[:2]:
        events.write(report)
    assert len(said) == 1
    assert names(said[0], ["warning", str(tmp_path / "tensorboard")])
    (tmp_path / "tensorboard").unlink()
    events.write(reports[2])
    assert scalars(tmp_path) == of(reports[:3])

    def full(descriptor: int) -> None:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 5)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for report in reports[3:6]:
            events.write(report)
    assert len(said) == 2
    assert "No space left on device" in said[1]
    for report in reports[6:]:
        events.write(report)
    events.close()
    assert scalars(tmp_path) == of(reports)


def test_without_the_library_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else find(name)
    )
    assert train.main([*ARGV, "--tensorboard"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert names(line, ["--tensorboard=True", "tensorboardX", "td3-brax[tensorboard]"])
    assert list(tmp_path.iterdir()) == []
