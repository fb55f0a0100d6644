"""A run starts from what another has learnt: its networks to the bit, sooner good, and refused by name."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from said import names
from test_resume import untimed
from test_run import read_reports
from test_tensorboard import scalars, written
from toy import ARGV, POINT, Point

import td3_brax
from td3_brax import train
from td3_brax.algorithm import build
from td3_brax.algorithm.packing import pack
from td3_brax.commands.sweep import run as sweep
from td3_brax.config import INT32_MAX
from td3_brax.presets import resolve
from td3_brax.runs import checkpoint, origin
from td3_brax.runs.program import Program

LEARNT = 40.0
"""A return that is near the best; the episodes have 50 steps of at most 1."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt to hold the point."""
    out = tmp_path_factory.mktemp("source") / "run"
    assert train.main([*ARGV, "--total_env_steps=6144", f"--out={out}"]) == 0
    return out


def learnt(out: Path) -> Any:
    """Networks and statistics in a run's newest checkpoint, by name."""
    arrays, _, _ = checkpoint.load(checkpoint.saved(out)[0])
    return {n: a for n, a in arrays.items() if n.startswith((".members.learner", ".members.obs_stats"))}


def test_a_changed_task_is_learnt_in_a_fraction_of_the_steps(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weaker push, another goal; three seeds with new networks, three with learnt ones, in one program."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").symlink_to(source)
    changed = {"env_args": '{"push": 0.2, "goal": 0.5}', "total_env_steps": 6144, "tensorboard": True}
    parameters = {name: {"value": value} for name, value in (POINT | changed).items()}
    parameters |= {"init_from": {"values": ["", "source"]}, "seed": {"values": [1, 2, 3]}}
    Path("s.yaml").write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    argv = ["s.yaml", "--devices=1", "--wandb=disabled", "--out=out"]
    assert sweep.main(argv) == 0
    needed: dict[bool, list[int]] = {True: [], False: []}
    for member in sorted(Path("out").glob("0*")):
        config = json.loads((member / "config.json").read_text())
        reports = read_reports(member)
        assert scalars(member) == written(member)
        steps = next(r["env_steps"] for r in reports if r["eval/return_mean"] > LEARNT)
        needed[bool(config["init_from"])].append(steps)
        # Before the first update, the policy is the other run's, and no longer good.
        assert reports[0]["updates"] == 0
        if config["init_from"]:
            assert config["init_from"] == str(source)
            assert 20 < reports[0]["eval/return_mean"] < LEARNT
            (process,) = json.loads((member / "about.json").read_text())
            assert process["init_from"]["env_steps"] == 6144
    assert len(needed[True]) == len(needed[False]) == 3
    assert sum(needed[True]) < sum(needed[False]) / 2


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, checkpoint.Arrays]:
    """A run from ``source``, and its state before the first chunk."""
    states: list[checkpoint.Arrays] = []
    run_chunk = Program.run_chunk

    def watched(program: Program) -> Any:
        states.append(checkpoint.to_host(program.state))
        return run_chunk(program)

    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source.parent)
        patch.setattr(Program, "run_chunk", watched)
        assert train.main([*ARGV, *LATER, f"--out={out}"]) == 0
    return out, states[0]


LATER = ["--seed=9", "--total_env_steps=1536", "--init_from=run"]
"""A path from the folder where the other run lies."""


def test_it_starts_with_the_very_networks_and_statistics(
    source: Path, whole: tuple[Path, checkpoint.Arrays]
) -> None:
    out, state = whole
    theirs = learnt(source)
    assert any("value_scale_target" in name for name in theirs)
    for name, array in theirs.items():
        if "_opt" in name:
            assert not state[name].any(), name
        else:
            assert state[name].tobytes() == array.tobytes(), name
    assert not state[".replay.rows"].any()
    assert not state[".members.env_steps"].any()
    assert state[".members.hyper.warmup_env_steps"] == 0
    assert state[".members.hyper.learn_from"] == POINT["warmup_env_steps"]
    reports = read_reports(out)
    assert [r["updates"] for r in reports[:3]] == [0, 0, 64]
    assert reports[0]["eval/return_mean"] > LEARNT
    assert min(r["train/return_mean"] or LEARNT for r in reports[:2]) > 0  # uniformly random: far below
    assert learnt(out).keys() == theirs.keys()


def test_the_first_update_has_a_batch_of_transitions(source: Path) -> None:
    config = resolve({"preset": "paper", "init_from": str(source)}, "cpu")
    assert int(build.make_hypers([config]).learn_from[0]) == config.batch_size
    without = resolve({"preset": "paper"}, "cpu")
    assert int(build.make_hypers([without]).learn_from[0]) == 0


def test_it_resumes_without_the_other_run(
    source: Path, whole: tuple[Path, checkpoint.Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(train.Run):
        def _chunk(self, signals: train.Signals) -> int:
            if self.record.outcome.chunk == 3:
                signal.raise_signal(signal.SIGTERM)
            return super()._chunk(signals)

    shutil.copytree(source, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(train, "Run", Stopping)
        assert train.main([*ARGV, *LATER, "--out=later"]) == train.PREEMPTED
    again = [*ARGV, *LATER, "--out=later", "--resume=auto"]
    shutil.rmtree("run")
    assert train.main(again) == 0
    assert untimed(Path("later")) == untimed(whole[0])
    ours, theirs = learnt(Path("later")), learnt(whole[0])
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


def test_a_run_that_was_killed_before_its_first_checkpoint_needs_it_again(
    source: Path,
    whole: tuple[Path, checkpoint.Arrays],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From any folder, because the path in ``config.json`` is a whole one."""
    monkeypatch.chdir(tmp_path)
    killed = tmp_path / "killed"
    killed.mkdir()
    shutil.copy(whole[0] / "config.json", killed)
    shutil.copy(whole[0] / "policy_last.npz", killed)
    (killed / "metrics.jsonl").write_text(json.dumps(read_reports(whole[0])[0]) + "\n")
    before = {p: p.read_bytes() for p in killed.rglob("*")}
    away = source.rename(source.parent / "away")
    try:
        assert train.main([f"--resume={killed}"]) == 2
        assert names(capsys.readouterr().err, [f"--init_from={source}", "no"])
        assert {p: p.read_bytes() for p in killed.rglob("*")} == before
    finally:
        away.rename(source)
    assert train.main([f"--resume={killed}"]) == 0
    assert untimed(killed) == untimed(whole[0])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--hidden_sizes=[32,16]"], ["--hidden_sizes=[32,16]", "[32,32]", "--init_from=SOURCE"]),
        (["--num_atoms=1"], ["--num_atoms=1", "51", "--init_from=SOURCE"]),
        (["--num_critics=1"], ["--num_critics=1", "2"]),
        (["--normalize_obs=false"], ["--normalize_obs=False", "True"]),
        (["--critic_action_scale=2"], ["--critic_action_scale=2", "1"]),
        (["--critic=td3_brax.examples.own_network:Normalized"], ["mlp"]),
        (["--env=toy:Wide"], ["--init_from=SOURCE", "observations", "2", "toy:Wide", "3"]),
        (["--init_from=nowhere"], ["nowhere", "no", "run"]),
    ],
)
def test_what_can_not_fit_is_refused_by_name(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    said: list[str],
) -> None:
    """Before anything is compiled or written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Program, "begin", None)
    assert train.main([*ARGV, f"--init_from={source}", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert names(line.replace("/nowhere", " nowhere"), [word.replace("SOURCE", str(source)) for word in said])
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint_that_can_be_used_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, "damaged")
    (newest,) = checkpoint.saved(Path("damaged"))
    (newest / "host.json").write_text("{}")
    assert train.main([*ARGV, "--init_from=damaged"]) == 2
    assert names(capsys.readouterr().err, [f"--init_from={tmp_path / 'damaged'}", "usable", "checkpoint"])
    shutil.rmtree("damaged/checkpoints")
    Path("s.yaml").write_text(
        yaml.safe_dump(
            {
                "method": "grid",
                "parameters": {n: {"value": v} for n, v in (POINT | {"init_from": "damaged"}).items()},
            }
        )
    )
    for main, argv in [
        (train.main, [*ARGV, "--init_from=damaged"]),
        (sweep.main, ["s.yaml", "--wandb=disabled"]),
    ]:
        assert main(argv) == 2
        assert names(capsys.readouterr().err, [f"--init_from={tmp_path / 'damaged'}", "no", "checkpoint"])
    assert {path.name for path in tmp_path.iterdir()} == {"damaged", "s.yaml"}


@pytest.mark.parametrize("packed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_place_of_a_pack_starts_from_it_and_the_others_do_not(source: Path, packed: bool) -> None:
    """Keep parameters as a tree, as on CPUs, or as one array, as on accelerators."""
    config = resolve(POINT | {"hidden_sizes": (32, 32), "devices": 1, "init_from": str(source)}, "cpu")
    configs = [dataclasses.replace(config, seed=seed, total_env_steps=INT32_MAX - 5000) for seed in range(2)]
    program = build.build(config, Point(), side_by_side=packed)
    state = jax.jit(lambda: build.start(program, configs))()
    found = origin.load(config)
    assert found is not None
    assert found.sizes == (2, 1)
    after = origin.start_from(state, {1: found}, configs)
    first, second = (jax.device_get(jax.tree.map(lambda x, i=i: x[i], after.members)) for i in range(2))
    before = jax.device_get(jax.tree.map(lambda x: x[0], state.members))
    same = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), first.learner, before.learner
    )
    assert all(jax.tree.leaves(same))
    theirs = learnt(source)
    tree = {
        "params": {
            "mlp": {
                f"layer_{i}": {
                    part: theirs[f".members.learner.actor['params']['mlp']['layer_{i}']['{part}']"][0]
                    for part in ("kernel", "bias")
                }
                for i in range(3)
            }
        }
    }
    expected = pack(tree) if packed else tree
    jax.tree.map(np.testing.assert_array_equal, second.learner.actor, expected)
    np.testing.assert_array_equal(second.obs_stats.mean, theirs[".members.obs_stats.mean"][0])
    assert second.obs_stats.count == 5000  # of 6,144: with those of its own the counter stays in 32 bits
    assert first.obs_stats.count == 0


def test_fit_takes_a_path(source: Path, tmp_path: Path) -> None:
    result = td3_brax.fit(
        **POINT | {"hidden_sizes": (32, 32)},
        devices=1,
        total_env_steps=1536,
        init_from=source,
        out=tmp_path / "run",
        callback=lambda report: True,
    )
    assert result.config.init_from == str(source)
    assert result.reports[0]["eval/return_mean"] > LEARNT
