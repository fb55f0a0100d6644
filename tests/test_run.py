"""Whole runs: what they write, that they repeat, how they stop, and how they look.

All runs here share their shapes, so that the compilation cache serves all but the first.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from said import names
from test_site import TRAIN, rows

from td3_brax import load_policy, train
from td3_brax.algorithm.evaluate import greedy_returns
from td3_brax.commands import eval as eval_command
from td3_brax.config import FIELDS
from td3_brax.envs.tasks.brax import BraxTask
from td3_brax.runs.program import Program
from td3_brax.runs.record import POLICIES

ROOT = Path(train.__file__).parent.parent
MODULE = [sys.executable, "-m", "td3_brax.train"]
TIME_LIMIT = 40
OPTIONS = [
    "--env=inverted_pendulum",
    "--preset=quick",
    "--num_envs=8",
    "--updates_per_env_step=0.125",
    "--hidden_sizes=[32, 32]",
    "--batch_size=32",
    "--replay_capacity=2000",
    "--warmup_env_steps=192",
    f"--time_limit={TIME_LIMIT}",
    "--report_every=128",
    "--eval_every=256",
    "--eval_episodes=4",
]

ALWAYS = {
    "env_steps",
    "updates",
    "wall_s",
    "train/episodes",
    "train/return_mean",
    "train/length_mean",
    "loss/critic",
    "loss/actor",
    "q/mean",
    "q/target_mean",
    "env/quarantined",
    "env/waited",
    "time/env_steps_per_s",
    "time/updates_per_s",
    "time/compile_s",
    "time/checkpoint_s",
    "update/skipped",
}
EVALUATED = {
    "eval/return_mean",
    "eval/return_std",
    "eval/length_mean",
    "eval/return_best",
    "eval/broken",
    "eval/q_mean",
    "eval/q_true",
    "time/eval_s",
}


@dataclass
class Run:
    """A run that was made in this process."""

    out: Path
    code: int
    printed: str
    reports: list[dict[str, Any]] = field(default_factory=list)
    traced: list[tuple[int, int]] = field(default_factory=list)
    """Before each chunk: calls of the task's ``step`` in Python, and JAX traces and compilations."""

    @property
    def untimed(self) -> list[dict[str, Any]]:
        """The reports without what a clock says."""
        return [
            {k: v for k, v in r.items() if not k.startswith("time/") and k != "wall_s"} for r in self.reports
        ]


def read_reports(out: Path) -> list[dict[str, Any]]:
    """The objects in a run's ``metrics.jsonl``."""
    text = (out / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def make_run(argv: list[str], out: Path) -> Run:
    """Train in this process, counting what Python still does per chunk."""
    calls: list[str] = []
    events: list[str] = []
    traced: list[tuple[int, int]] = []
    step, run_chunk = BraxTask.step, Program.run_chunk

    def counted_step(*args: Any) -> Any:
        calls.append("step")
        return step(*args)

    def counted_chunk(program: Program) -> Any:
        traced.append((len(calls), len(events)))
        return run_chunk(program)

    def listen(event: str, *_: Any, **__: Any) -> None:
        if "trace" in event or "compile" in event:
            events.append(event)

    printed = io.StringIO()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(BraxTask, "step", counted_step)
            patch.setattr(Program, "run_chunk", counted_chunk)
            code = train.main([*argv, f"--out={out}"])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return Run(out, code, printed.getvalue(), read_reports(out), traced)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small whole run."""
    return make_run(
        [*OPTIONS, "--total_env_steps=768", "--seed=3"], tmp_path_factory.mktemp("runs") / "first"
    )


def exit_code(main: Callable[[list[str]], int], argv: list[str]) -> Any:
    """Of a command, whether it returns or the parser leaves."""
    try:
        return main(argv)
    except SystemExit as stopped:
        return stopped.code


def same_policies(a: Path, b: Path) -> bool:
    """Whether the policy files ``a`` and ``b`` hold the same arrays, bit for bit."""
    with np.load(a) as x, np.load(b) as y:
        assert x.files == y.files
        return all(x[name].tobytes() == y[name].tobytes() for name in x.files)


def test_a_run_writes_its_files(first: Run) -> None:
    assert first.code == 0
    names = {path.name for path in first.out.iterdir()}
    assert names == {*POLICIES} | {"about.json", "config.json", "metrics.jsonl", "curve.png", "checkpoints"}
    assert names == {cells[0].strip("`/") for cells in rows(TRAIN, "| file | what it holds |")}
    picture = (first.out / "curve.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", picture[16:24])
    assert width >= 600
    assert height >= 400
    assert len(picture) > 10_000
    config = json.loads((first.out / "config.json").read_text())
    assert list(config) == list(FIELDS)
    assert config["hidden_sizes"] == [32, 32]


def test_the_reports_are_complete_and_true(first: Run) -> None:
    reports = first.reports
    assert [r["env_steps"] for r in reports] == [128, 256, 384, 512, 640, 768]
    for report in reports:
        assert set(report) >= ALWAYS
        assert (set(report) >= EVALUATED) == (report["env_steps"] % 256 == 0)
        assert report["time/env_steps_per_s"] > 0
        assert report["env/quarantined"] == 0
        assert 0 < report["time/compile_s"] < report["wall_s"]
    told = {
        name for cells in rows(TRAIN, "| metric | meaning |") for name in re.findall(r"`(.+?)`", cells[0])
    }
    assert told == set().union(*reports)
    wall = [r["wall_s"] for r in reports]
    assert wall == sorted(wall)

    # One update per vector step once the warm-up (192 steps) is over; no losses before there are updates.
    assert [r["updates"] for r in reports] == [0, 8, 24, 40, 56, 72]
    assert reports[0]["loss/critic"] is None
    for report in reports[1:]:
        for name in ("loss/critic", "loss/actor", "q/mean", "q/target_mean"):
            assert np.isfinite(report[name])
        assert report["loss/critic"] > 0

    # This task pays 1 for every step, so a return is the length of its episode.
    for report in reports:
        assert report["train/return_mean"] == pytest.approx(report["train/length_mean"])
        assert 1 <= report["train/length_mean"] <= TIME_LIMIT
        if "eval/return_mean" in report:
            assert report["eval/return_mean"] == report["eval/length_mean"]
            assert 1 <= report["eval/length_mean"] <= TIME_LIMIT
    scores = [r["eval/return_mean"] for r in reports if "eval/return_mean" in r]
    best = [r["eval/return_best"] for r in reports if "eval/return_best" in r]
    assert best == list(np.maximum.accumulate(scores))
    assert load_policy(first.out, "best").meta["return_mean"] == max(scores)
    assert load_policy(first.out, "last").meta["return_mean"] == scores[-1]
    assert load_policy(first.out, "last").meta["env_steps"] == 768


def test_the_best_policy_is_scored_once_more_on_episodes_that_no_evaluation_had(first: Run) -> None:
    """The greatest of many noisy returns is above what that policy earns."""
    config, policy = eval_command.load(str(first.out), "best")
    task = BraxTask(config.env)
    own = jax.random.key(config.seed + 2**31)

    def returns(number: int) -> np.ndarray:
        keys = jax.random.split(jax.random.fold_in(own, number), 4)
        act = lambda obs: policy.forward(obs, jax.numpy)  # noqa: E731
        return np.asarray(jax.jit(lambda k: greedy_returns(task, act, k, TIME_LIMIT).returns)(keys))

    last, fresh = first.reports[-1], returns(2**31)
    assert last["eval/return_kept"] == pytest.approx(fresh.mean(), rel=1e-3)
    assert last["eval/return_kept_std"] == pytest.approx(fresh.std(), rel=1e-2, abs=1e-3)
    assert last["eval/return_best"] == pytest.approx(returns(policy.meta["env_steps"]).mean(), rel=1e-3)
    assert not any("eval/return_kept" in report for report in first.reports[:-1])
    assert f"{last['eval/return_kept']:.2f} +- " in first.printed.splitlines()[-2]


def test_the_lines_for_people_tell_what_happened(first: Run) -> None:
    assert "\x1b" not in first.printed
    lines = first.printed.splitlines()
    assert 0 <= first.printed.find("compiling") < first.printed.find("compiled")
    for steps in ("256", "512", "768"):
        assert any(re.match(rf"\s*{steps} steps .*return", line) for line in lines)
    returns = [r["eval/return_mean"] for r in first.reports if "eval/return_mean" in r]
    (done,) = [line for line in lines if line.startswith("done")]
    assert names(done, ["4", "768"])
    assert float(re.search(r"return ([\d.]+)", done)[1]) == pytest.approx(returns[-1], rel=0.01)
    assert str(first.out) in first.printed
    assert f"td3-brax eval {first.out}" in first.printed


def test_python_does_nothing_per_step_and_compiles_nothing_after_the_first_evaluation(first: Run) -> None:
    calls = {count for count, _ in first.traced}
    assert len(first.traced) == 6
    assert len(calls) == 1
    assert 0 < calls.pop() < 20
    events = [count for _, count in first.traced]
    assert events[0] > 0
    assert len(set(events[2:])) == 1  # the first evaluation, after two chunks, may prepare its key


def test_config_json_repeats_the_run_bit_for_bit(first: Run) -> None:
    out = first.out.parent / "second"
    second = make_run([f"--config={first.out / 'config.json'}"], out)
    assert second.untimed == first.untimed
    for name in ("policy_best.npz", "policy_last.npz"):
        assert same_policies(first.out / name, out / name)
    configs = [json.loads((run.out / "config.json").read_text()) for run in (first, second)]
    assert configs[0] | {"out": ""} == configs[1] | {"out": ""}


def test_another_seed_gives_another_run(first: Run) -> None:
    other = make_run([*OPTIONS, "--total_env_steps=256", "--seed=5"], first.out.parent / "other")
    pairs = list(zip(other.untimed, first.untimed, strict=False))
    assert len(pairs) == 2
    for ours, theirs in pairs:
        assert ours["env_steps"] == theirs["env_steps"]
        assert ours["train/return_mean"] != theirs["train/return_mean"]
    assert pairs[1][0]["loss/critic"] != pairs[1][1]["loss/critic"]
    assert not same_policies(first.out / "policy_last.npz", other.out / "policy_last.npz")


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def contents() -> dict[Path, tuple[bytes, int]]:
        files = [path for path in first.out.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = contents()
    assert train.main([*OPTIONS, f"--out={first.out}"]) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert f"--out={first.out}" in line
    assert contents() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/run", "file"])
def test_an_unwritable_folder_is_refused_before_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def compiles(*_: object) -> None:
        raise AssertionError("the job was started")

    monkeypatch.setattr(train.Run, "train", compiles)
    (tmp_path / "file").write_text("mine")
    assert train.main([*OPTIONS, f"--out={tmp_path / name}"]) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert f"--out={tmp_path / name}" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_eval_scores_a_run(first: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def scored() -> tuple[float, float, float, float, float]:
        before = {path: path.read_bytes() for path in first.out.rglob("*") if path.is_file()}
        assert eval_command.main([str(first.out), "--episodes=16"]) == 0
        line = capsys.readouterr().out
        found = re.search(
            r"return ([\d.]+) \+- ([\d.]+), 95% interval \[([\d.]+), ([\d.]+)\], length ([\d.]+), 16 epi",
            line,
        )
        assert found, line
        assert "inverted_pendulum" in line
        assert {path: path.read_bytes() for path in first.out.rglob("*") if path.is_file()} == before
        mean, std, low, high, length = map(float, found.groups())
        return mean, std, low, high, length

    mean, std, low, high, length = scored()
    assert 1 <= mean <= TIME_LIMIT
    assert length == pytest.approx(mean, abs=0.51)
    assert low == pytest.approx(mean - 1.96 * std / 4, abs=0.11)
    assert high == pytest.approx(mean + 1.96 * std / 4, abs=0.11)
    # Untrained and evaluated policies of this task differ by far more than its initial states do.
    assert mean == pytest.approx(load_policy(first.out).meta["return_mean"], rel=0.35)


# In a process of its own: the entry points, Ctrl-C, the terminal.


@pytest.mark.parametrize("option", ["--help", "--bach_size=3"])
def test_the_three_entry_points_start_the_same_job(tmp_path: Path, option: str) -> None:
    script = Path(sys.executable).parent / "td3-brax"
    ways = [[str(script), "train"], MODULE, [sys.executable, str(ROOT / "td3_brax" / "train.py")]]
    answers = set()
    for way in ways:
        done = subprocess.run(
            [*way, option], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        answers.add((done.returncode, done.stdout, done.stderr))
    ((code, out, err),) = answers
    if option == "--help":
        assert code == 0
        assert "td3-brax train" in out
        assert err == ""
    else:
        assert code == 2
        assert out == ""
        assert "batch_size" in err


# Ctrl-C must work in it even where this process ignores it, as jobs in the background do.
LAUNCH = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@contextlib.contextmanager
def started(argv: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A job in a process of its own, which is gone afterwards."""
    process = subprocess.Popen([sys.executable, "-c", LAUNCH, *argv], text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float) -> None:
    """Until ``condition``; fails where the process ends or the time runs out before."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode}: {process.communicate()}")
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.02)


def test_ctrl_c_saves_what_was_learnt_and_says_where(tmp_path: Path) -> None:
    out, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    argv = [sys.executable, str(ROOT / "td3_brax" / "train.py"), *OPTIONS, "--eval_every=1e8"]
    argv += ["--total_env_steps=1e8", f"--out={out}"]
    with started(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3, process, 300)
        began = time.monotonic()
        # Once asks to stop; again and again, until all is saved, does no harm.
        while process.poll() is None and not (out / "curve.png").exists() and time.monotonic() - began < 30:
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        printed, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < 30
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "td3-brax: " not in errors
    last = read_reports(out)[-1]
    assert "eval/return_mean" in last
    policy = load_policy(out, "last")
    assert policy.meta["env_steps"] == last["env_steps"] >= 3 * 128
    assert np.isfinite(policy(np.zeros(policy.obs_mean.shape))).all()
    assert load_policy(out, "best").meta == policy.meta
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    closing = "".join(printed.splitlines()[-2:])
    assert names(closing, [str(out), f"{last['env_steps']:,}", "policy_last.npz"])


MARKING = """
import pathlib, sys
import jax
from td3_brax.train import main
compile = jax.stages.Lowered.compile
def marked(lowered):
    pathlib.Path(sys.argv[1]).touch()
    return compile(lowered)
jax.stages.Lowered.compile = marked
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("moment", ["importing", "compiling"])
def test_ctrl_c_before_training_ends_at_once(tmp_path: Path, moment: str) -> None:
    out, mark = tmp_path / "run", tmp_path / "compiling"
    argv = [sys.executable, "-c", MARKING, str(mark), *OPTIONS, f"--out={out}"]
    # No cache, so that compiling takes long enough to be met.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    with started(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        wait_for((out / "config.json" if moment == "importing" else mark).exists, process, 120)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=120)
        seconds = time.monotonic() - began
    assert process.returncode == 130
    assert "compiled" not in printed
    assert seconds < 3
    first, *rest = errors.splitlines()
    assert first.startswith("td3-brax: ")
    # What MuJoCo imports asks a child for a library's version, which may be met in its middle.
    assert not rest or (rest[1:2] == ['  File "<string>", line 28, in <module>'] and len(rest) == 3), errors
    assert not (out / "metrics.jsonl").exists()


def test_a_terminal_shows_a_progress_bar(tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    argv = [*MODULE, *OPTIONS, "--total_env_steps=2048", f"--out={tmp_path / 'run'}"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    environment.pop("NO_COLOR", None)
    shown = b""
    with started(argv, stdin=inside, stdout=inside, stderr=inside, env=environment) as process:
        os.close(inside)
        with contextlib.suppress(OSError):  # the terminal is gone with its last process
            while part := os.read(terminal, 65536):
                shown += part
        assert process.wait(60) == 0
    os.close(terminal)
    text = shown.decode()
    assert "\x1b[" in text
    assert "\u2501" in text  # the bar
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"100%.*2,048/2,048 .*[\d,]+ steps/s.*return [\d.]+.*best [\d.]+", plain)
    assert 0 <= plain.find("compiling") < plain.find("compiled") < plain.find("done")
