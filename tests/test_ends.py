"""However a run ends, the same command starts its folder again or goes on with it; starts at once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from test_api import SMALL
from test_api import untimed as untimed_result
from test_resume import untimed
from test_run import OPTIONS, same_policies

import td3_brax
from td3_brax import train
from td3_brax.config import Config
from td3_brax.option import ConfigError
from td3_brax.runs import checkpoint, folder, signals
from td3_brax.runs.program import Program
from td3_brax.runs.record import Record
from td3_brax.runs.tracking import Display

COMMAND = [*OPTIONS, "--total_env_steps=768", "--seed=3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped, without checkpoints."""
    out = tmp_path_factory.mktemp("ends") / "whole"
    assert train.main([*COMMAND, "--checkpoint_every_min=0", f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Path], None]:
    """Makes the folder that ``kill -9`` leaves after so many reports, before the first checkpoint."""
    out = tmp_path_factory.mktemp("ends") / "run"
    copies: list[Path] = []

    def copy(_: object) -> None:
        copies.append(out.with_name(f"after {len(copies) + 1}"))
        shutil.copytree(out, copies[-1])

    td3_brax.fit(**SMALL, out=out, callback=copy)

    def make(reports: int, to: Path) -> None:
        if reports:
            shutil.copytree(copies[reports - 1], to)
        else:
            to.mkdir()
            shutil.copy(out / "config.json", to)

    return make


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("reports", [0, pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("way", ["same", "--resume", "auto"])
def test_killed_before_its_first_checkpoint_it_starts_again(
    whole: Path, killed: Callable[[int, Path], None], tmp_path: Path, reports: int, way: str
) -> None:
    out = tmp_path / "run"
    killed(reports, out)
    aside = sorted(out.glob("policy_*.npz"))
    assert bool(aside) == (reports == 3)
    same = [*COMMAND, f"--out={out}"]
    argv = {"same": same, "--resume": [f"--resume={out}"], "auto": [*same, "--resume=auto"]}[way]
    assert train.main(argv) == 0
    assert untimed(out) == untimed(whole)
    assert same_policies(out / "policy_last.npz", whole / "policy_last.npz")
    for path in aside:  # what was learnt before is still there
        assert (out / "stopped-1" / path.name).is_file()


def test_other_options_do_not_start_it_again(
    killed: Callable[[int, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    killed(3, out)
    before = contents(out)
    assert train.main([*COMMAND, "--gamma=0.9", f"--out={out}"]) == 2
    assert "gamma" in capsys.readouterr().err
    assert contents(out) == before


def test_without_checkpoints_what_is_complete_stays_and_what_is_not_starts_again(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    stopped = td3_brax.fit(**SMALL, checkpoint_every_min=0, out=out, callback=lambda _: True)
    assert stopped.exit_code == signals.INTERRUPTED
    argv = [*COMMAND, "--checkpoint_every_min=0", f"--out={out}"]
    assert train.main([*argv, "--resume=auto"]) == 0
    assert untimed(out) == untimed(whole)
    before = contents(out)
    assert train.main(argv) == 2
    assert train.main([*argv, "--resume=auto"]) == 0
    assert train.main([f"--resume={out}", "--total_env_steps=1280"]) == 2
    assert "--total_env_steps=1280" in capsys.readouterr().err
    assert contents(out) == before


def test_a_callbacks_error_loses_nothing(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def broken(report: dict[str, Any]) -> None:
        if report["env_steps"] == 384:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        td3_brax.fit(**SMALL, out=out, callback=broken)
    assert [r["env_steps"] for r in untimed(out)] == [128, 256, 384]
    assert td3_brax.load_policy(out, "last").meta["env_steps"] == 384
    assert [int(path.name) for path in checkpoint.saved(out)] == [384]
    assert untimed_result(td3_brax.fit(resume=out)) == untimed(whole)


@pytest.mark.parametrize(
    ("place", "name"), [(Display, "show"), (Record, "track"), (Record, "note_evaluation")]
)
def test_an_error_beside_the_training_loses_nothing_that_was_reported(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    """As a pipe that is closed makes one."""
    calls = []

    def broken(*_: Any) -> Any:
        calls.append(1)
        if len(calls) == (1 if name == "note_evaluation" else 3):
            raise BrokenPipeError("closed")
        return None

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(place, name, broken)
        with pytest.raises(BrokenPipeError):
            train.main([*COMMAND, f"--out={out}"])
    if name != "note_evaluation":  # which comes before the report that it is part of
        assert [int(path.name) for path in checkpoint.saved(out)] == [384]
        assert train.main([f"--resume={out}"]) == 0
    else:
        assert train.main([*COMMAND, f"--out={out}"]) == 0
    assert untimed(out) == untimed(whole)


@pytest.mark.parametrize("name", ["__init__", "begin", "run_chunk"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_ends_before_anything_was_learnt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[BaseException]
) -> None:
    def broken(*_: Any) -> None:
        if error is KeyboardInterrupt and name != "run_chunk":
            os.kill(os.getpid(), signal.SIGINT)
        raise error

    monkeypatch.setattr(Program, name, broken)
    with pytest.raises(error):
        td3_brax.fit(**SMALL, out=tmp_path / "runs" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noted(place: int) -> None:
        assert not checkpoint.saved(tmp_path)
        synced.add(os.fstat(place).st_ino)
        fsync(place)

    monkeypatch.setattr(os, "fsync", noted)
    writer = checkpoint.Checkpoints(tmp_path, 1)
    writer.save({"x": jnp.ones(2)}, {"env_steps": 1}, [], True)
    writer.wait()
    assert writer.failure() is None
    (made,) = checkpoint.saved(tmp_path)
    assert {path.stat().st_ino for path in [made, *made.rglob("*")]} <= synced


# Retention.


def save(writer: checkpoint.Checkpoints, env_steps: int) -> None:
    writer.save({"x": jnp.ones(2)}, {"env_steps": env_steps}, [], True)
    writer.wait()
    assert writer.failure() is None


def names(out: Path) -> list[int]:
    return [int(path.name) for path in checkpoint.saved(out)]


def damage(path: Path) -> None:
    (path / "host.json").write_text("{}")


def test_what_is_kept_can_be_used(tmp_path: Path) -> None:
    before = checkpoint.Checkpoints(tmp_path, 9)
    for env_steps in (10, 20, 30, 40):
        save(before, env_steps)
    for env_steps in (20, 40):
        damage(tmp_path / "checkpoints" / str(env_steps))

    two = checkpoint.Checkpoints(tmp_path, 3, tmp_path / "checkpoints" / "30")
    save(two, 35)
    assert names(tmp_path) == [35, 30, 10]  # neither is the damaged 20 counted, nor 40 kept
    one = checkpoint.Checkpoints(tmp_path, 1, tmp_path / "checkpoints" / "30")
    save(one, 34)
    assert names(tmp_path) == [34]


def test_with_one_kept_a_run_past_a_damaged_checkpoint_keeps_its_own(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    saving = SMALL | {"checkpoint_every_min": 1e-9, "out": out}
    td3_brax.fit(**saving, callback=lambda report: report["env_steps"] == 384)
    damage(shutil.copytree(out / "checkpoints" / "384", out / "checkpoints" / "640"))
    td3_brax.fit(resume=out, checkpoint_keep=1, callback=lambda report: report["env_steps"] == 512)
    assert names(out) == [512]
    assert untimed_result(td3_brax.fit(resume=out)) == untimed(whole)


# Starts at once.


class Waits:
    """In the place of a run: tells its options, and stays until all have tried to start."""

    trained: list[tuple[Config, Path]]
    tried: threading.Barrier

    def __init__(self, config: Config, out: Path, *_: object) -> None:
        self.config, self.out = config, out

    def train(self, _: object) -> int:
        self.trained.append((self.config, self.out))
        self.tried.wait(10)
        return 0


def start_all(configs: list[Config], monkeypatch: pytest.MonkeyPatch) -> int:
    """Start these at once; how many were refused."""
    refused: list[ConfigError] = []
    Waits.trained, Waits.tried = [], threading.Barrier(len(configs))
    monkeypatch.setattr(train, "Run", Waits)
    ready = threading.Barrier(len(configs))

    def start(config: Config) -> None:
        ready.wait(10)
        try:
            train._start(config, signals.Signals(owns_process=False), 0.0, None)
        except ConfigError as error:
            refused.append(error)
            Waits.tried.wait(10)

    threads = [threading.Thread(target=start, args=(config,)) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(refused)


def written(out: Path) -> float:
    return float(json.loads((out / "config.json").read_text())["actor_lr"])


def test_of_two_starts_in_one_folder_one_trains_with_its_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(200):
        out = tmp_path / str(i)
        configs = [Config(out=str(out), actor_lr=lr) for lr in (0.1, 0.2)]
        assert start_all(configs, monkeypatch) == 1
        ((config, _),) = Waits.trained
        assert written(out) == config.actor_lr


def test_starts_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configs = [dataclasses.replace(Config(), actor_lr=lr) for lr in (0.1, 0.2, 0.3, 0.4)]
    assert start_all(configs, monkeypatch) == 0
    assert len({out for _, out in Waits.trained}) == 4
    assert all(written(out) == config.actor_lr for config, out in Waits.trained)


def test_a_folder_that_was_discarded_meanwhile_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock would keep nobody out of the one that has its name now."""
    out = tmp_path / "run"
    out.mkdir()
    opened = os.open

    def then_discarded(*args: Any, **options: Any) -> int:
        place = opened(*args, **options)
        out.rmdir()
        out.mkdir()
        return place

    monkeypatch.setattr(folder.os, "open", then_discarded)
    with pytest.raises(ConfigError, match=str(out)), folder.lock(out):
        pass
