"""Nothing is lost: runs that are killed, preempted, damaged or out of disk go on as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from said import names
from test_run import MODULE, OPTIONS, make_run, read_reports, same_policies, started, wait_for

from td3_brax import train
from td3_brax.algorithm import loop
from td3_brax.algorithm.learner import TD3
from td3_brax.algorithm.networks import Actor, Critic
from td3_brax.algorithm.population import make_hyper
from td3_brax.algorithm.state import Batch
from td3_brax.config import Config
from td3_brax.runs import checkpoint, folder, signals
from td3_brax.runs.record import POLICIES

LONG = ["--total_env_steps=38400", "--eval_every=2560", "--checkpoint_every_min=0.005"]


def untimed(out: Path) -> list[dict[str, Any]]:
    """A run's reports without what a clock says."""
    reports = read_reports(out)
    return [{k: v for k, v in r.items() if not k.startswith("time/") and k != "wall_s"} for r in reports]


def assert_same_run(out: Path, whole: Path) -> None:
    """Equal in every line, policy and array."""
    assert untimed(out) == untimed(whole)
    for name in POLICIES:
        assert same_policies(out / name, whole / name)
    (ours,), (theirs,) = checkpoint.saved(out), checkpoint.saved(whole)
    ours, theirs = checkpoint.load(ours)[0], checkpoint.load(theirs)[0]
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert make_run([*OPTIONS, *LONG, "--seed=5"], out).code == 0
    return out


def lines(out: Path) -> int:
    """Lines in a run's metrics so far."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_run_that_is_stopped_goes_on_bit_for_bit(whole: Path, tmp_path: Path, number: int) -> None:
    """Stopped twice at random places, by the same command that then goes on."""
    out, rng = tmp_path / "run", random.Random(int(number))
    argv = [*MODULE, *OPTIONS, *LONG, "--seed=5", f"--out={out}", "--resume=auto"]
    for _ in range(2):
        before = lines(out)
        with started(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wait_for(lambda before=before: lines(out) > before + 3 and checkpoint.saved(out), process, 120)
            time.sleep(rng.uniform(0, 0.6))
            for _ in range(2):  # a second signal does no harm
                process.send_signal(number)
            printed, errors = process.communicate(timeout=60)
        expected = {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 130}[signal.Signals(number)]
        assert process.returncode == expected, (printed, errors)
        if number != signal.SIGKILL:
            assert shlex.join(["--resume", str(out)]) in printed
            assert "Traceback" not in errors
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((out / "about.json").read_text())) == 3
    assert_same_run(out, whole)


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """A run in the middle, with two checkpoints, made in this process."""
    out = tmp_path / "stopped"

    class Stopping(train.Run):
        def _chunk(self, signals: train.Signals) -> int:
            self._saved = -1e9 if self.record.outcome.chunk == 30 else 1e9
            if self.record.outcome.chunk == 41:
                signal.raise_signal(signal.SIGTERM)
            return super()._chunk(signals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Run", Stopping)
        assert make_run([*OPTIONS, *LONG, "--seed=5"], out).code == train.PREEMPTED
    assert len(checkpoint.saved(out)) == 2
    return out


def go_on(out: Path, *argv: str) -> int:
    """Resume in this process; the exit code."""
    return train.main([f"--resume={out}", *argv])


def test_a_damaged_checkpoint_is_found_and_the_one_before_taken(
    stopped: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, before = checkpoint.saved(stopped)
    biggest = max((newest / "state").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = bytearray(biggest.read_bytes())
    content[len(content) // 2] ^= 1
    biggest.write_bytes(content)
    assert go_on(stopped) == 0
    printed = capsys.readouterr().out
    (warning,) = [line for line in printed.splitlines() if str(newest) in line]
    assert warning.startswith("warning: ")
    assert f"{int(before.name):,}" in printed
    assert_same_run(stopped, whole)


def test_a_half_written_checkpoint_is_no_checkpoint(stopped: Path, whole: Path) -> None:
    newest, _ = checkpoint.saved(stopped)
    (newest / "checksums.json").unlink()
    shutil.copytree(newest, newest.parent / ".99999.1.tmp")
    assert go_on(stopped) == 0
    assert_same_run(stopped, whole)
    assert not list(newest.parent.glob(".*.tmp"))


def test_without_a_usable_checkpoint_nothing_is_touched(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in checkpoint.saved(stopped):
        (path / "host.json").write_text("{}")
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    for argv in ([f"--resume={stopped}"], [*OPTIONS, "--resume=auto", f"--out={stopped}"]):
        assert train.main(argv) == 2
        assert f"--resume={stopped}" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("option", "named"),
    [("--gamma=0.5", "--gamma=0.5"), ("--num_envs=16", "--num_envs=16"), ("--hidden_sizes=64", "[32,32]")],
)
def test_what_may_not_change_is_refused_by_name(
    stopped: Path, capsys: pytest.CaptureFixture[str], option: str, named: str
) -> None:
    assert go_on(stopped, option) == 2
    line = capsys.readouterr().err
    assert named in line
    assert str(stopped) in line
    assert len(line.splitlines()) == 1


def test_a_run_goes_on_for_longer(stopped: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the end, and then beyond it; once more to where it ends already."""
    assert go_on(stopped) == 0
    assert_same_run(stopped, whole)
    assert go_on(stopped, "--total_env_steps=39680") == 0
    assert json.loads((stopped / "config.json").read_text())["total_env_steps"] == 39_680
    longer = untimed(stopped)
    assert [r["env_steps"] for r in longer] == list(range(128, 39_680 + 1, 128))
    assert longer[:299] == untimed(whole)[:299]
    before = (stopped / "metrics.jsonl").read_bytes(), (stopped / "policy_last.npz").read_bytes()
    capsys.readouterr()
    assert go_on(stopped) == 0
    assert "is complete" in capsys.readouterr().out
    assert before == ((stopped / "metrics.jsonl").read_bytes(), (stopped / "policy_last.npz").read_bytes())


def test_metrics_that_were_cut_are_told_and_what_follows_is_whole(
    stopped: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stopped / "metrics.jsonl"
    every = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(every[:14]) + every[14][:20])
    assert go_on(stopped) == 0
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if str(file) in line and "14" in line]
    assert warning.startswith("warning: ")
    # Before the checkpoint what was left, from there on every line.
    assert untimed(stopped) == untimed(whole)[:14] + untimed(whole)[len(every) - 1 :]
    assert (stopped / "curve.png").exists()


def test_without_the_replay_it_says_that_it_is_not_exact(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, before = checkpoint.saved(stopped)
    arrays, host, policies = checkpoint.load(newest)
    shutil.rmtree(before)
    small = checkpoint.Checkpoints(stopped, 1)
    del arrays[checkpoint.REPLAY]
    small._write(arrays, host, policies)
    assert small.failure() is None
    assert go_on(stopped, "--checkpoint_replay=false", "--total_env_steps=7680") == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "replay" in line and "192" in line]
    assert names(note, ["192"])
    reports = read_reports(stopped)
    first = host["outcome"]["env_steps"] // 128
    assert reports[first]["updates"] == reports[first - 1]["updates"]
    assert reports[first + 3]["updates"] > reports[first]["updates"]
    assert checkpoint.REPLAY not in checkpoint.load(checkpoint.saved(stopped)[0])[0]


def test_two_processes_never_share_a_run(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    with folder.lock(stopped):
        assert go_on(stopped) == 2
    assert f"--out={stopped}" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--resume=nowhere"], ["--resume=nowhere"]),
        (["--resume=auto"], ["--resume=auto", "--out"]),
    ],
)
def test_nothing_to_go_on_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    said: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(argv) == 2
    assert names(capsys.readouterr().err, said)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_nothing_that_was_saved(whole: Path, tmp_path: Path) -> None:
    """No file may grow beyond 12 KB for a while: warnings, then everything is written after all."""
    out = tmp_path / "run"
    argv = [*MODULE, *OPTIONS, *LONG, "--seed=5", f"--out={out}"]
    with started(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: len(checkpoint.saved(out)) > 0, process, 120)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))
        full = lines(out)
        wait_for(lambda: (out / "metrics.jsonl").stat().st_size > 11_000, process, 120)
        time.sleep(0.7)
        whole_lines = (out / "metrics.jsonl").read_bytes()
        assert whole_lines.endswith(b"\n")
        assert any(checkpoint.load(path) for path in checkpoint.saved(out))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert full < 300
    warnings = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert any(str(out / "metrics.jsonl") in line for line in warnings)
    assert any("checkpoint" in line for line in warnings)
    assert "td3_brax" not in errors  # the libraries may complain, at length
    assert_same_run(out, whole)


@pytest.mark.parametrize("code", ["stop", "skip"])
def test_updates_that_are_not_finite_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    sample = loop.replay.sample

    def poisoned(replay: Any, *args: Any) -> Batch:
        batch = sample(replay, *args)
        now = (replay.size[0] > 200) & (replay.size[0] <= 208)  # on each of two devices
        return batch.replace(reward=jnp.where(now, jnp.nan, batch.reward))

    monkeypatch.setattr(loop.replay, "sample", poisoned)
    out = tmp_path / "run"
    argv = [*OPTIONS, "--total_env_steps=768", f"--on_nonfinite={code}", "--checkpoint_every_min=1e-9"]
    run = make_run(argv, out)
    skipped = [r["update/skipped"] for r in run.reports]
    assert sum(n > 0 for n in skipped) == 1
    if code == "skip":
        assert run.code == 0
        assert len(run.reports) == 6
        assert all(np.isfinite(r["q/mean"]) for r in run.reports[1:])
        return
    assert run.code == signals.DIVERGED
    (stopped,) = [line for line in run.printed.splitlines() if line.startswith("stopped")]
    assert names(stopped, ["384", "512"])
    assert [int(path.name) for path in checkpoint.saved(out)] == [384, 256]
    monkeypatch.setattr(loop.replay, "sample", sample)
    assert go_on(out) == 0


@pytest.mark.parametrize("where", ["loss", "huge loss", "critic gradient", "actor gradient"])
def test_a_poisoned_update_leaves_the_learner_as_it_was(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    td3 = TD3(Actor((8, 8), 2), Critic((8, 8), 2), 2)
    learner = td3.init(jax.random.key(0), 3, 2)
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=(2, 16, *shape)), jnp.float32)  # noqa: E731
    batch = Batch(normal(3), jnp.tanh(normal(2)), normal(), normal(3), 0 * normal(), 1 + 0 * normal())
    if where.endswith("loss"):
        # In the first of two updates; of a huge reward only the square is not finite.
        reward = 1e30 if where == "huge loss" else jnp.inf
        batch = batch.replace(reward=batch.reward.at[0, 3].set(reward))
    else:
        mean = loop.shard_mean

        def poisoned(tree: Any, shards: int) -> Any:
            tree = mean(tree, shards)
            leaves, structure = jax.tree.flatten(tree)
            if (leaves[0].ndim == 2) == (where == "critic gradient"):  # biases; twins have one each
                leaves[1] = leaves[1].at[..., 0, 0].set(jnp.nan)
                return jax.tree.unflatten(structure, leaves)
            return tree

        monkeypatch.setattr("td3_brax.algorithm.learner.shard_mean", poisoned)
    after, stats = td3.update_block(learner, make_hyper(Config()), batch, normal(2), jnp.bool_(True))

    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, after, learner)))
    assert int(stats.skipped) == 2
    assert np.isfinite(stats.critic_loss)


def test_no_bytes_make_loading_a_checkpoint_crash_or_hang(stopped: Path, tmp_path: Path) -> None:
    """Truncated, swapped and random files, with their checksums and with new ones that fit them."""
    original = checkpoint.saved(stopped)[0]
    names = sorted(p.relative_to(original) for p in original.rglob("*") if p.is_file())
    rng = random.Random(0)
    for i in range(24):
        copy = tmp_path / str(i)
        shutil.copytree(original, copy)
        name = rng.choice(names)
        content = (copy / name).read_bytes()
        way = i % 3
        if way == 0:
            content = content[: rng.randrange(len(content))] if content else b"x"
        elif way == 1:
            others = [(copy / n).read_bytes() for n in names]  # two files may hold the same, such as policies
            content = rng.choice([other for other in others if other != content])
        else:
            content = rng.randbytes(max(len(content), 1))
        (copy / name).write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=str(copy)):
            checkpoint.load(copy)
        if name.name != "checksums.json":
            (copy / "checksums.json").write_text(json.dumps(checkpoint.checksums(copy)))
            with contextlib.suppress(checkpoint.CheckpointError):
                checkpoint.load(copy)


@pytest.mark.parametrize("count", [1, 2])
def test_every_kind_of_leaf_comes_back(tmp_path: Path, count: int) -> None:
    """Keys, whole numbers, flags, scalars, halves on two devices, and arrays that hold nothing."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("shard",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("shard"))
    state = {
        "keys": jax.random.split(jax.random.key(7), 3),
        "rows": jax.device_put(jnp.arange(24.0).reshape(8, 3), spread),
        "count": jnp.int32(5),
        "flags": jnp.array([True, False]),
        "nothing": jnp.zeros((1, 4, 0)),
    }
    writer = checkpoint.Checkpoints(tmp_path, 1)
    writer.save(state, {"env_steps": 1, "outcome": {}, "tail": [0, ""], "versions": {}}, [], True)
    writer.wait()
    assert writer.failure() is None
    arrays, host, files = checkpoint.load(checkpoint.saved(tmp_path)[0])
    assert host["env_steps"] == 1
    assert files == {}
    shapes = jax.eval_shape(lambda: state)
    back = checkpoint.to_device(arrays, shapes, spread_all(state))
    for name, leaf in state.items():
        assert back[name].dtype == leaf.dtype
        assert back[name].sharding == leaf.sharding
        raw = jax.random.key_data if name == "keys" else np.asarray
        np.testing.assert_array_equal(raw(back[name]), raw(leaf))
    with pytest.raises(checkpoint.CheckpointError, match=r"rows'\].*float32 \[8, 3\]"):
        checkpoint.to_device(
            arrays, shapes | {"rows": jax.ShapeDtypeStruct((9, 3), "float32")}, spread_all(state)
        )


def test_parameters_move_between_accelerators_and_cpus() -> None:
    """An accelerator's checkpoint, each network in one array, is a CPU's with its layers, and back; another
    network's is neither."""

    def learners(packed: bool, hidden: int = 8) -> Any:
        td3 = TD3(Actor((hidden,) * 11, 3), Critic((hidden, 4), 2), 2, packed=packed)
        return jax.vmap(lambda key: td3.init(key, 5, 3))(jax.random.split(jax.random.key(0), 2))

    apart, together = learners(False), learners(True)
    held = len(checkpoint.to_host(apart)), len(checkpoint.to_host(together))
    assert held[0] > held[1]
    for source, target in [(apart, together), (together, apart)]:
        shapes = jax.eval_shape(lambda target=target: target)
        back = checkpoint.to_device(checkpoint.to_host(source), shapes, spread_all(target))
        jax.tree.map(np.testing.assert_array_equal, back, target)
    for source, target in [(apart, learners(True, 9)), (together, learners(False, 9))]:
        shapes = jax.eval_shape(lambda target=target: target)
        with pytest.raises(checkpoint.CheckpointError):
            checkpoint.to_device(checkpoint.to_host(source), shapes, spread_all(target))


def spread_all(state: dict[str, jax.Array]) -> Any:
    """Where each leaf lies."""
    return jax.tree.map(lambda x: x.sharding, state)
