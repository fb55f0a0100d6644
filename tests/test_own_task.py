"""Tasks of one's own: what is no task is refused before it is compiled; what is one can be loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import odd
import pytest
from test_broken import TINY

import td3_brax
from td3_brax import load_policy, policy, train
from td3_brax.config import Config
from td3_brax.envs.registry import make_task


@pytest.mark.parametrize("name", odd.WRONG)
def test_what_is_no_task_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jax, "jit", None)  # nothing is compiled
    out = tmp_path / "run"
    assert train.main([f"--env=odd:{name}", f"--out={out}", "--devices=1"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    part, _ = odd.WRONG[name]
    assert f"--env=odd:{name}: {part} " in err
    assert not out.exists()


@pytest.mark.parametrize("name", ["Raises", "RaisesLater"])
def test_an_error_in_a_task_is_its_own_and_leaves_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="my own mistake"):
        td3_brax.fit(env=f"odd:{name}", out=tmp_path / "run", devices=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["Asymmetric", "Float64Limits", "ListLimits", "KeyState", "Constants"])
def test_what_is_unusual_but_right_is_a_task(name: str) -> None:
    make_task(Config(env=f"odd:{name}"))


@pytest.mark.parametrize(("name", "low", "high"), [("Float64Limits", 0, 10), ("ListLimits", -2, 3)])
def test_a_run_ends_in_policies_that_can_be_loaded(
    name: str, low: float, high: float, tmp_path: Path
) -> None:
    run = td3_brax.fit(env=f"odd:{name}", out=tmp_path / "run", **TINY)
    assert run.exit_code == 0
    for which in ("best", "last", "early"):
        made = load_policy(run.out, which)
        assert (made.action_low.tolist(), made.action_high.tolist()) == ([low], [high])
        assert low <= made.predict(np.zeros(2))[0][0] <= high


@pytest.mark.parametrize("broken", ["unreadable", "not written"])
def test_a_run_whose_policies_cannot_be_loaded_is_not_done(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the cause; here those of the last evaluation."""
    save = np.savez

    def savez(file: Any, **arrays: Any) -> None:
        if json.loads(str(arrays["head"]))["meta"]["env_steps"] == 2048:
            if broken == "not written":
                raise OSError(28, "No space left on device")
            arrays["obs_mean"] = arrays["obs_mean"].astype(np.float64)
        save(file, **arrays)

    monkeypatch.setattr(policy.np, "savez", savez)
    run = td3_brax.fit(env="odd:Asymmetric", out=tmp_path / "run", **TINY)
    assert run.exit_code == 1
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("done") for line in lines)
    assert "policy_last.npz" in lines[-1]
    assert load_policy(run.out, "last").meta["env_steps"] == 1024  # the one before is whole
    assert not list(run.out.glob("*.tmp"))
