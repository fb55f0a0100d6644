"""``td3-brax plan``: what it says beforehand is what a run then holds."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import pytest
from said import names
from test_run import OPTIONS, exit_code

from td3_brax.algorithm import build
from td3_brax.cli import parse_options, train_parser
from td3_brax.commands import plan
from td3_brax.envs.tasks.brax import BraxTask
from td3_brax.presets import resolve
from td3_brax.runs.memory import workspace_bytes

CONFIGS = {
    "one device": ["--devices=1", "--num_atoms=1"],
    "four devices": ["--devices=4", "--replay_capacity=50000"],
}


def said(printed: str, part: str) -> float:
    """GB that the table gives for ``part``."""
    found = re.search(rf"^  {part} +([\d.]+) GB", printed, re.MULTILINE)
    assert found, printed
    return float(found.group(1))


@pytest.mark.parametrize(
    "changes",
    [CONFIGS["one device"], pytest.param(CONFIGS["four devices"], marks=pytest.mark.slow)],
    ids=CONFIGS.keys(),
)
def test_the_plan_is_what_the_run_holds(
    changes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, compiled = [*OPTIONS, *changes], []

    def noted(program: jax.stages.Compiled) -> int:
        compiled.append(program)
        return workspace_bytes(program)

    monkeypatch.setattr("td3_brax.runs.memory.workspace_bytes", noted)
    assert plan.main(argv) == 0
    printed = capsys.readouterr().out
    config = resolve(parse_options(train_parser(), argv)[0], "cpu")
    program = build.build(config, BraxTask(config.env, config.backend), side_by_side=False)
    state = build.jit_init(program, config)()
    state, _ = compiled[0](state)  # the program that was planned for is the one that runs
    device = jax.devices()[0]
    live = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(jax.tree.map(raw, state))
        for shard in leaf.addressable_shards
        if shard.device == device
    )
    measured = live + workspace_bytes(compiled[0])
    assert said(printed, "needed") * 1e9 == pytest.approx(measured, rel=0.1, abs=1e6)
    assert f"on {config.devices} x" in printed
    assert "fits" in printed


def raw(leaf: jax.Array) -> jax.Array:
    """A leaf, or a key's data."""
    return jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def test_what_does_not_fit_is_said_with_the_largest_replay_that_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("td3_brax.runs.memory.device_bytes", lambda _: 400_000_000)
    assert plan.main([*OPTIONS, "--replay_capacity=5e7"]) == 1
    printed = capsys.readouterr().out
    most = re.search(r"--replay_capacity=(\d+)", printed)
    assert most
    assert plan.main([*OPTIONS, f"--replay_capacity={most.group(1)}"]) == 0


@pytest.mark.slow
def test_for_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--env=inverted_pendulum", "--backend=spring", "--num_envs=64", "--batch_size=64"]
    assert plan.main([*small, "--hidden_sizes=[32,32]", "--gpu=h100"]) == 0
    printed = capsys.readouterr().out
    assert names(printed, ["1", "h100", "h100"])
    assert said(printed, "available") == pytest.approx(60)


@pytest.mark.parametrize(
    ("argv", "words"), [(["--gpu=h10"], ["--gpu=h10", "h100", "h100"]), (["--gama=1"], ["--gama", "gamma"])]
)
def test_bad_options_are_refused(
    argv: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(plan.main, argv) == 2
    line = capsys.readouterr().err
    assert names(line, words)
    assert len(line.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
