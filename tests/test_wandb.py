"""Weights & Biases through its real client, against a stand-in of its server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standin import StandIn
from test_run import OPTIONS

from td3_brax import train
from td3_brax.commands.reproduce import run as reproduce
from td3_brax.commands.sweep import run as sweep_run
from td3_brax.config import Config
from td3_brax.runs import signals, wandb_run
from td3_brax.runs.wandb_run import WandbRun

IMPATIENT = """
import sys
import td3_brax.runs.wandb_run
from td3_brax import train
td3_brax.runs.wandb_run.ANSWER_S = td3_brax.runs.wandb_run.FINISH_S = 4.0
sys.exit(train.main(sys.argv[1:]))
"""
LONG = "--total_env_steps=100_000_000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with StandIn() as standing:
        yield standing


def start(out: Path, server: StandIn, *argv: str, **environment: str) -> subprocess.Popen[bytes]:
    """A run in a process of its own. What it prints goes to a file: a full pipe would stop it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    cache = {"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]}
    printed = out.parent / "printed"
    with printed.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, *OPTIONS, f"--out={out}", *argv],
            env=clean | server.environment(out.parent) | cache | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    process.printed = printed
    return process


def finish(process: subprocess.Popen[bytes]) -> str:
    process.wait(timeout=120)
    return process.printed.read_text()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < until
        assert process.poll() is None, finish(process)
        time.sleep(0.05)


def written(out: Path) -> list[dict[str, float]]:
    """The reports in ``metrics.jsonl``, as W&B gets them."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if v is not None} for line in lines]


def sent(server: StandIn, run: str) -> list[dict[str, float]]:
    """The reports that arrived, in order; without what the client adds."""
    lines = [server.history[run][place] for place in sorted(server.history[run])]
    return [plain(line) for line in lines]


def kept(printed: str) -> list[dict[str, float]]:
    """The reports in the offline files that the closing line names, read by W&B's own reader."""
    folder = printed.strip().splitlines()[-1].partition("wandb sync ")[2]
    argv = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", folder]
    read = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    records = [json.loads(line) for line in read.stdout.splitlines()]
    lines = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [line for line in map(plain, lines) if line]


def plain(line: dict[str, float]) -> dict[str, float]:
    """A report without what the client adds, and without the curve."""
    return {k: v for k, v in line.items() if not k.startswith(("_", "curve", "film"))}


def test_a_run_arrives_whole(server: StandIn, tmp_path: Path) -> None:
    out = tmp_path / "run"
    followed = {
        "WANDB_RUN_ID": "whole",
        "WANDB_NAME": "mine",
        "WANDB_RUN_GROUP": "ours",
        "WANDB_MODE": "online",
    }
    ignored = {"WANDB_RESUME": "never", "WANDB_DIR": str(tmp_path / "elsewhere")}
    process = start(out, server, "--total_env_steps=1024", **followed, **ignored)
    printed = finish(process)
    assert process.returncode == 0, printed
    assert server.belongs["whole"] == {"displayName": "mine", "groupName": "ours"}
    (note,) = [line for line in printed.splitlines() if line.startswith("note:")]
    assert all(name in note for name in ignored)
    assert not any(name in note for name in followed)
    assert not (tmp_path / "elsewhere").exists()
    assert f"W&B: {server.url}/someone/td3-brax/runs/whole" in printed
    reports = [line for line in sent(server, "whole") if line]
    assert reports == written(out)
    assert len(reports) == 8
    config = server.config["whole"]
    options = json.loads((out / "config.json").read_text())
    assert {name: config[name] for name in options} == options
    summary = server.summary["whole"]
    assert summary["eval/return_best"] == max(r.get("eval/return_mean", 0) for r in reports)
    times = [summary[f"time/{part}_s"] for part in ("import", "compile", "train", "eval")]
    assert min(times) > 0
    assert sum(times) < summary["wall_s"] + 1
    assert 0 < summary["time/track_s"] < 1
    assert summary["device"] == "cpu"
    assert isinstance(summary["compile_cache_hit"], bool)
    assert server.ends["whole"][-1] == {"complete": True, "exitcode": 0}


def test_nothing_waits_for_wandb_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Begun:
        step, logged = 0, []

        def log(self, report: dict[str, float], step: int) -> None:
            self.logged.append((step, report))

    answers, begun, said = threading.Event(), Begun(), []

    def begin(self: WandbRun) -> Begun:
        answers.wait(20)
        self._lines.append("W&B: here")
        return begun

    monkeypatch.setattr(WandbRun, "_begin", begin)
    before = time.monotonic()
    run = WandbRun(Config(), tmp_path, None, lambda: None, said.append)
    run.log(1, {"env_steps": 1})
    run.log(2, {"env_steps": 2, "loss/critic": None})
    assert time.monotonic() - before < 5
    assert (begun.logged, said) == ([], [])
    answers.set()
    run._begun.result(timeout=5)
    run.log(3, {"env_steps": 3})
    assert begun.logged == [(i, {"env_steps": i}) for i in (1, 2, 3)]
    assert said == ["W&B: here"]


def test_a_preempted_run_of_a_sweep_is_queued_again_and_goes_on_as_the_same(
    server: StandIn, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    sweep = {"WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "preempted"}
    process = start(out, server, LONG, "--resume=auto", **sweep)  # online, as a sweep started it
    wait_for(lambda: len(server.history.get("preempted", {})) > 2, process)
    process.send_signal(signal.SIGTERM)
    printed = finish(process)
    assert process.returncode == 75, printed
    assert any(end.get("preempting") for end in server.ends["preempted"])
    assert server.ends["preempted"][-1]["exitcode"] == 75
    before = len(server.history["preempted"])

    process = start(out, server, LONG, "--resume=auto", **sweep)
    wait_for(lambda: len(server.history["preempted"]) > before + 2, process)
    server.stopped.add("preempted")  # as W&B's own stop button does
    printed = finish(process)
    assert process.returncode == 130, printed
    reports = [line for line in sent(server, "preempted") if line]
    assert [line["env_steps"] for line in reports] == [128 * (i + 1) for i in range(len(reports))]
    assert reports == written(out)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_PROJECT", "team/project"),
        ("WANDB_PROJECT", "p" * 129),
        ("WANDB_RUN_ID", "a/b"),
        ("WANDB_TAGS", "t" * 65),
        ("WANDB_BASE_URL", "secret"),
        ("WANDB_MODE", "secret"),
        ("WANDB_MODE", "shared"),
        ("WANDB_HTTP_TIMEOUT", "secret"),
    ],
)
def test_what_wandb_refuses_is_told_before_anything_is_compiled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    from test_packed import write  # which imports from here

    monkeypatch.setattr(train.Run, "train", None)
    monkeypatch.setattr(sweep_run, "_train", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    path = write(tmp_path, {})
    for main, argv in (
        (train.main, [*OPTIONS, *(["--wandb=offline"] if name != "WANDB_MODE" else [])]),
        (sweep_run.main, [str(path), *(["--wandb=offline"] if name != "WANDB_MODE" else [])]),
        (reproduce.main, ["--quick", *(["--wandb=offline"] if name != "WANDB_MODE" else [])]),
    ):
        assert main(argv) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert "--wandb=" in line
        assert name in line
        assert name == "WANDB_MODE" or "secret" not in line
        assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_client_that_does_not_begin_at_all_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def refuses(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(WandbRun, "_init", refuses)
    monkeypatch.setattr(wandb_run, "log_in", lambda _: None)
    said: list[str] = []
    run = WandbRun(Config(wandb=mode), tmp_path, None, lambda: None, said.append)
    run._begun.result(timeout=20)
    run.log(1, {"env_steps": 1})
    assert run.close(0, False, {}, []) == ""
    (line,) = said
    assert "broken" in line


def test_a_client_that_breaks_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        step = 0

        def log(self, *_: object, **__: object) -> None:
            raise ConnectionError("its process has ended")

    monkeypatch.setattr(WandbRun, "_begin", lambda _: Broken())
    said: list[str] = []
    run = WandbRun(Config(), tmp_path, None, lambda: None, said.append)
    run._begun.result(timeout=20)
    for step in (1, 2):
        run.log(step, {"env_steps": step})
    (line,) = said
    assert "its process has ended" in line


def test_wandbs_stop_before_training_is_heeded_in_somebodys_program() -> None:
    """It comes on a thread of W&B's, where an exception would be lost, and the stop with it."""
    own = signals.Signals(owns_process=False)
    own.stop()
    assert own.code == signals.INTERRUPTED


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, ""),
        ({"WANDB_API_KEY": "short"}, ""),
        ({"WANDB_API_KEY": ""}, "wandb login"),
    ],
)
def test_without_network_or_key_training_goes_on_and_says_how_to_sync(
    server: StandIn, tmp_path: Path, environment: dict[str, str], says: str
) -> None:
    out = tmp_path / "run"
    process = start(out, server, "--total_env_steps=512", "--wandb=online", **environment)
    printed = finish(process)
    assert process.returncode == 0, printed
    assert any(says in line for line in printed.splitlines() if line.startswith("warning: W&B: "))
    assert len(written(out)) == 4
    assert kept(printed) == written(out)


def test_a_server_that_stops_answering_holds_nothing_up(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with StandIn() as server:
        process = start(out, server, LONG, "--wandb=online", WANDB_RUN_ID="left")
        wait_for(lambda: len(server.history.get("left", {})) > 2, process)
        server.silent.set()
        count = len(written(out))
        wait_for(lambda: len(written(out)) > count + 20, process)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        printed = finish(process)
        assert process.returncode == 130, printed
        assert time.monotonic() - began < 30
        assert "wandb sync" in printed
        server.silent.clear()


def test_an_offline_run_needs_no_server(server: StandIn, tmp_path: Path) -> None:
    out = tmp_path / "run"
    before = len(server.operations)
    process = start(out, server, "--total_env_steps=512", WANDB_MODE="offline", WANDB_RUN_ID="offline")
    printed = finish(process)
    assert process.returncode == 0, printed
    assert len(server.operations) == before
    assert "warning" not in printed
    assert f"wandb sync {out}/wandb/offline-run-" in printed
    assert kept(printed) == written(out)
