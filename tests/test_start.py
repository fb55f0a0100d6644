"""From the command to the first chunk: what is imported, compiled, kept, and said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_resume import untimed
from test_run import MODULE, OPTIONS, read_reports

from td3_brax.runs import cache

HEAVY = ("jax", "brax", "mujoco", "flax", "orbax", "wandb", "matplotlib", "IPython", "gymnasium")


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from td3_brax import train
try:
    train.main(["--help"])
except SystemExit:
    pass
print("imported:", [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported: []\n")


def started(folder: Path, out: Path, *argv: str) -> subprocess.Popen[str]:
    """A run that keeps its programs in ``folder``."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder)}
    return subprocess.Popen(
        [*MODULE, *OPTIONS, "--total_env_steps=256", f"--out={out}", *argv],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_processes_share_the_cache_and_other_floats_compile_nothing(tmp_path: Path) -> None:
    """Two runs begin at once on an empty cache; a third differs in all that is data to the program."""
    folder = tmp_path / "cache"
    for process in [started(folder, tmp_path / name) for name in "ab"]:
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "cache" not in errors
        assert " cache" not in printed
    assert untimed(tmp_path / "a") == untimed(tmp_path / "b")

    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name.split("-")[0] for name in kept} >= {"jit_train_chunk", "jit_score"}
    assert not [name for name in kept if name.endswith(".tmp")]
    others = ["--seed=9", "--gamma=0.9", "--tau=0.1", "--actor_lr=1e-4", "--critic_lr=1e-4", "--lr_decay=0.1"]
    others += ["--exploration_noise=0.2", "--target_noise=0.1", "--warmup_env_steps=64", "--eval_tau=0.5"]
    process = started(folder, tmp_path / "c", *others, "--total_env_steps=640")
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == kept

    phases = re.search(r"([\d.]+) s: (import [\d.]+, .*)", printed)
    assert phases, printed
    parts = {name: float(seconds) for name, seconds in (part.split() for part in phases[2].split(", "))}
    assert list(parts) == ["import", "model", "trace", "compile", "state"]
    assert sum(parts.values()) == pytest.approx(float(phases[1]), abs=0.3)
    assert parts["trace"] < read_reports(tmp_path / "c")[0]["wall_s"]


def test_entries_of_the_cache_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails with ``cache.prepare`` left out too, ``cache._write_entries_atomically`` can go."""
    from jax._src.lru_cache import LRUCache

    cache._write_entries_atomically()
    entries = LRUCache(str(tmp_path), max_size=-1)

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            entries.put("key", b"program")
    assert entries.get("key") is None
    entries.put("key", b"program")
    assert entries.get("key") == b"program"
    assert [path.name for path in tmp_path.iterdir()] == ["key-cache"]
