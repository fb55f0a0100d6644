"""``td3-brax sweep``: what it takes, what it refuses, and its members' runs through W&B's real client."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from said import names
from standin import StandIn
from test_resume import untimed
from test_run import same_policies, wait_for
from test_wandb import sent, written

from td3_brax.cli import parse_train
from td3_brax.commands.sweep import agents, file, run
from td3_brax.commands.sweep.file import SweepError
from td3_brax.config import Config
from td3_brax.presets import PLATFORMS, resolve
from td3_brax.runs import device, files, folder, journal
from td3_brax.runs.record import POLICIES

SMALL: dict[str, Any] = {
    "env": "inverted_pendulum",
    "preset": "author",
    "num_envs": 8,
    "updates_per_env_step": 0.25,
    "hidden_sizes": [16, 16],
    "batch_size": 16,
    "replay_capacity": 1000,
    "warmup_env_steps": 64,
    "total_env_steps": 512,
    "report_every": 128,
    "eval_every": 256,
    "eval_episodes": 3,
    "time_limit": 50,
}
SWEEPS = Path(__file__).parents[1] / "sweeps"
QUICK = """
import sys
from td3_brax.commands.sweep import agents, run
agents.HEARTBEAT_S = 0.2
sys.exit(run.main(sys.argv[1:]))
"""


def write(folder: Path, parameters: dict[str, Any], **changes: Any) -> Path:
    """A sweep's file with these parameters beside the small ones."""
    fixed = {name: {"value": value} for name, value in SMALL.items()}
    content = {
        "name": "small",
        "program": "td3_brax/train.py",
        "method": "grid",
        "metric": {"name": "eval/return_best", "goal": "maximize"},
        "parameters": fixed | parameters,
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(folder: Path, server: StandIn | None, *argv: str) -> subprocess.Popen[str]:
    """The command in a process of its own; a new sweep in ``out``, two members at a time on one device."""
    if "--resume" not in argv[0]:
        argv = (*argv, "--members=2", "--devices=1", f"--out={folder / 'out'}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    home = (
        server.environment(folder)
        if server
        else {"HOME": str(folder), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    )
    cache = {"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]}
    return subprocess.Popen(
        [sys.executable, "-c", QUICK, *argv],
        env=clean | home | cache,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    printed = process.communicate(timeout=240)[0]
    assert process.returncode == code, printed
    return printed


@pytest.mark.parametrize(
    ("parameters", "changes", "says"),
    [
        ({"gama": {"values": [0.9]}}, {}, ["parameters.gama", "gamma"]),
        ({}, {"methd": "grid"}, ["methd", "method"]),
        ({}, {"method": "gird"}, ["method", "grid", "random", "bayes", "gird"]),
        ({"gamma": {"min": 0.9, "max": 0.99}}, {}, ["parameters.gamma", "values"]),
        (
            {"actor_lr": {"values": ["3e-4", 0.001]}},
            {},
            ["parameters.actor_lr", "3e-4", "0.0003"],
        ),
        (
            {"total_env_steps": {"value": "1e6"}},
            {},
            ["parameters.total_env_steps", "1e6", "1000000"],
        ),
        ({"gamma": {"values": []}}, {}, ["parameters.gamma", "values"]),
        ({"gamma": 0.9}, {}, ["parameters.gamma", "value", "values", "min", "max"]),
        ({"gamma": {"values": [0.9, 1.5]}}, {}, ["gamma=1.5", "--gamma=1.5", "1"]),
        (
            {"updates_per_env_step": {"values": [0.25, 0.123]}},
            {},
            ["updates_per_env_step=0.123", "--updates_per_env_step=0.123", "--num_envs=8"],
        ),
        ({"out": {"value": "x"}}, {}, ["parameters.out"]),
        ({"checkpoint_replay": {"value": False}}, {}, ["parameters.checkpoint_replay"]),
        ({}, {"method": "random"}, ["run_cap", "random"]),
        ({}, {"run_cap": "ten"}, ["run_cap", "ten"]),
        ({}, {"metric": {"name": "eval/return_bst"}}, ["metric", "eval/return_best"]),
        (
            {},
            {"metric": {"name": "eval/return_best", "goal": "max"}},
            ["metric", "maximize", "minimize"],
        ),
        (
            {"gamma": {"distribution": "uniformly", "min": 0.9, "max": 0.99}},
            {"method": "random", "run_cap": 2},
            ["parameters.gamma", "uniform", "uniform"],
        ),
        (
            {"gamma": {"min": 0.99, "max": 0.9}},
            {"method": "random", "run_cap": 2},
            ["parameters.gamma", "min", "max", "0.99", "0.9"],
        ),
        (
            {"tau": {"min": 0, "max": 0.9}},
            {"method": "random", "run_cap": 2},
            ["parameters.tau", "min", "max", "0", "0.9"],
        ),
        (
            {"actor_lr": {"distribution": "log_uniform_values", "min": 0, "max": 0.9}},
            {"method": "random", "run_cap": 2},
            ["parameters.actor_lr", "log_uniform_values", "min", "0", "0"],
        ),
        ({}, {"method": "bayes"}, ["method", "--wandb=online", "disabled"]),
    ],
)
def test_what_it_refuses(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    parameters: dict[str, Any],
    changes: dict[str, Any],
    says: list[str],
) -> None:
    path = write(tmp_path, parameters, **changes)
    assert run.main([str(path), "--wandb=disabled", f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"td3-brax: {path}: ")
    assert names(error, says), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--members=0"], ["--members=0", "1"]),
        (["--members=many"], ["--members=many"]),
        (["--devices=99"], ["--devices=99", "8"]),
        (["--wandb=onlin"], ["--wandb=onlin", "online", "offline", "disabled"]),
        (["--member=2"], ["--member", "members"]),
        (["--out=."], ["--out=."]),
    ],
)
def test_wrong_options(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    says: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, {})
    options = argv if "--wandb" in argv[0] else ["--wandb=disabled", *argv]
    try:
        code: Any = run.main([str(path), *options])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert names(capsys.readouterr().err, says)


def test_what_no_file_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([str(tmp_path / "none.yaml")]) == 2
    assert str(tmp_path / "none.yaml") in capsys.readouterr().err
    for text in ("a: [", "just text", "parameters: 3", ""):
        (tmp_path / "bad.yaml").write_text(text)
        assert run.main([str(tmp_path / "bad.yaml")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_sweeps_that_come_with_it_are_taken(path: Path) -> None:
    sweep = file.load(path)
    for platform in PLATFORMS:
        if sweep.suggested:
            run._check_suggestions(sweep, platform)
            continue
        jobs = run.planned(sweep, 0, platform, "disabled")
        assert len(jobs) == sweep.run_cap
        for group in run.group_by_program(jobs):
            assert len({job.config.shape for job in group}) == 1


@pytest.mark.parametrize(
    ("parameter", "low", "high", "middle"),
    [
        ({"min": 3, "max": 5}, 3, 5, 4),
        ({"min": 0.25, "max": 0.75}, 0.25, 0.75, 0.5),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, 1e-4, 1e-2, 1e-3),
        ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}, 0, 1, 0.5),
        ({"distribution": "q_log_uniform_values", "min": 1.0, "max": 100.0, "q": 1}, 1, 100, 10),
        ({"distribution": "normal", "mu": 2.0, "sigma": 0.5}, -2, 6, 2),
        ({"distribution": "log_normal", "mu": math.log(2), "sigma": 0.5}, 0, 50, 2),
        ({"values": [1, 2, 9]}, 1, 9, 2),
        ({"values": [1, 2, 9], "probabilities": [0.1, 0.1, 0.8]}, 1, 9, 9),
    ],
    ids=str,
)
def test_draws(parameter: dict[str, Any], low: float, high: float, middle: float) -> None:
    """Within their bounds, with the median where the distribution has it; whole numbers up to both ends."""
    rng = np.random.default_rng(0)
    drawn = np.array([file.draw(parameter, rng) for _ in range(4001)])
    assert low <= drawn.min() <= drawn.max() <= high
    assert np.median(drawn) == pytest.approx(middle, rel=0.1)
    if "q" in parameter:
        np.testing.assert_allclose(drawn % parameter["q"], 0)
    elif drawn.dtype.kind == "i":
        assert set(drawn) == set(parameter.get("values", range(3, 6)))


def test_draws_follow_from_the_seed(tmp_path: Path) -> None:
    sweep = file.load(write(tmp_path, {"gamma": {"min": 0.9, "max": 0.99}}, method="random", run_cap=5))
    once, again, other = (list(sweep.runs(seed)) for seed in (0, 0, 1))
    assert once == again != other
    assert len({options["gamma"] for options in once}) == 5


def test_members_group_by_what_shapes_their_program(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"gamma": {"values": [0.9, 0.99]}, "batch_size": {"values": [16, 32]}, "seed": {"values": [0, 1, 2]}},
    )
    jobs = run.planned(file.load(path), 0, "cpu", "disabled")
    groups = run.group_by_program(jobs)
    assert [len(group) for group in groups] == [6, 6]
    assert [{job.config.batch_size for job in group} for group in groups] == [{16}, {32}]
    assert sorted(job.number for group in groups for job in group) == list(range(1, 13))
    assert [
        run.count_places(count, most, devices) for count, most, devices in [(6, 16, 1), (6, 4, 1), (7, 4, 2)]
    ] == [
        6,
        3,
        4,
    ]


def test_a_suggestion_must_fit_one_program(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"policy_delay": {"values": [1, 2]}, "gamma": {"min": 0.9, "max": 0.99}}, method="bayes"
    )
    with pytest.raises(SweepError, match=r"parameters\.policy_delay"):
        run._check_suggestions(file.load(path), "cpu")
    path = write(tmp_path, {"gamma": {"min": 0.9, "max": 1.99}}, method="bayes")
    with pytest.raises(SweepError, match=r"--gamma=1\.99\b"):
        run._check_suggestions(file.load(path), "cpu")


def test_a_grid_without_wandb(tmp_path: Path) -> None:
    """Four members in two places: each a run of its own; the table; the best one's command works."""
    path = write(tmp_path, {"gamma": {"values": [0.5, 0.9]}, "seed": {"values": [0, 1]}})
    printed = finish(start(tmp_path, None, str(path), "--wandb=disabled"))
    announced, members, compiling = printed.splitlines()[:3]
    assert names(announced, ["small", "4", "1"])
    assert names(members, ["4", "2", "gamma", "seed"])
    assert "compiling" in compiling
    assert printed.count("compiling") == 1
    rows = [re.split(r"  +", row) for row in printed.splitlines() if re.match(r"00\d  0", row)]
    scores = []
    for number, gamma, seed, score, steps, end in rows:
        folder = tmp_path / "out" / number
        config = json.loads((folder / "config.json").read_text())
        assert (config["gamma"], config["seed"], config["devices"]) == (float(gamma), int(seed), 1)
        lines = written(folder)
        assert [line["env_steps"] for line in lines] == [128, 256, 384, 512]
        assert float(score) == pytest.approx(max(line["eval/return_best"] for line in lines[1::2]), abs=0.06)
        assert (steps, end) == ("512", "done")
        files = {"about.json", "config.json", "metrics.jsonl", "curve.png"}
        assert {f.name for f in folder.iterdir()} == files | {*POLICIES}
        scores.append(float(score))
    assert len(rows) == 4
    assert scores == sorted(scores, reverse=True)
    command = shlex.split(printed.splitlines()[-1].partition("td3-brax train ")[2])
    config = resolve(parse_train([*command, "--devices=1"])[0], "cpu")
    best = json.loads((tmp_path / "out" / rows[0][0] / "config.json").read_text())
    assert config == Config(**best | {"hidden_sizes": tuple(best["hidden_sizes"]), "out": ""})


def test_a_packed_grid_is_a_sweep_on_wandb(tmp_path: Path) -> None:
    """Real runs of that sweep, through the real client: config, lines, summary, state. One diverges alone."""
    path = write(tmp_path, {"critic_lr": {"values": [0.001, 1e30, 0.01]}})
    with StandIn() as server:
        printed = finish(start(tmp_path, server, str(path)), code=1)
        assert yaml.safe_load(server.sweep)["parameters"]["critic_lr"] == {"values": [0.001, 1e30, 0.01]}
        runs = {server.config[run]["critic_lr"]: run for run in server.config}
        assert set(runs) == {0.001, 1e30, 0.01}
        for place, lr in enumerate((0.001, 1e30, 0.01), 1):
            run_id, out = runs[lr], tmp_path / "out" / f"{place:03d}"
            belongs = {"sweep": "sweep", "groupName": "small", "displayName": f"small {place:03d}"}
            assert server.belongs[run_id] == belongs
            options = json.loads((out / "config.json").read_text())
            assert {name: server.config[run_id][name] for name in options} == options
            assert [line for line in sent(server, run_id) if line] == written(out)
            assert server.ends[run_id][-1] == {"complete": True, "exitcode": int(lr > 1)}
            summary = server.summary[run_id]
            assert (summary.get("eval/return_best") is None) == (lr > 1)
            assert summary["members"] == 2
        assert re.search(r"002 diverged.*--critic_lr=1e\+30", printed)
        assert printed.count("compiling") == 1


def test_wandbs_suggestions(tmp_path: Path) -> None:
    """Bayes with hyperband: each place has an agent; a run that is stopped gives its place to the next."""
    parameters = {"gamma": {"min": 0.9, "max": 0.99}, "total_env_steps": {"value": 4096}}
    path = write(tmp_path, parameters, method="bayes", early_terminate={"type": "hyperband", "min_iter": 1})
    with StandIn() as server:
        options = SMALL | {"total_env_steps": 4096}
        server.queue = [(name, options | {"gamma": g}) for name, g in [("a", 0.9), ("b", 0.95), ("c", 0.99)]]
        server.ended_early = {"a"}
        printed = finish(start(tmp_path, server, str(path)))
        assert names(printed.splitlines()[0], ["small", "2"])
        assert server.agents == 2
        assert {run: server.config[run]["gamma"] for run in "abc"} == {"a": 0.9, "b": 0.95, "c": 0.99}
        assert all(server.belongs[run]["sweep"] == "sweep" for run in "abc")
        assert all(server.ends[run][-1] == {"complete": True, "exitcode": 0} for run in "abc")
        lines = {run: [line for line in sent(server, run) if line] for run in "abc"}
        assert (
            lines["a"][-1]["env_steps"] < 4096 == lines["b"][-1]["env_steps"] == lines["c"][-1]["env_steps"]
        )
        assert [line["env_steps"] for line in lines["c"]] == [128 * (i + 1) for i in range(32)]
        assert len(re.findall(r"^001 (?!done).*--gamma=0\.9$", printed, re.MULTILINE)) == 1
        assert len(re.findall(r"^00\d done.*--gamma=", printed, re.MULTILINE)) == 2
        assert printed.count("compiling") == 1


def test_a_sweep_that_is_deleted_ends(tmp_path: Path) -> None:
    """Its heartbeats are told so, on a thread of their own; the member that trains is finished."""
    parameters = {"gamma": {"min": 0.9, "max": 0.99}, "total_env_steps": {"value": 4096}}
    path = write(tmp_path, parameters, method="bayes")
    with StandIn() as server:
        server.queue = [("a", SMALL | {"total_env_steps": 4096, "gamma": 0.9})]
        process = start(tmp_path, server, str(path))
        wait_for(lambda: not server.queue, process, 120)
        server.deleted.set()
        printed = finish(process, code=1)
        assert server.ends["a"][-1] == {"complete": True, "exitcode": 0}
    assert len(written(tmp_path / "out" / "001")) == 32
    assert printed.splitlines()[-1].startswith("td3-brax: W&B")
    assert "Traceback" not in printed


def test_a_client_that_cant_be_asked(tmp_path: Path) -> None:
    assert agents.missing() == ""
    path = write(tmp_path, {"gamma": {"min": 0.9, "max": 0.99}}, method="bayes")
    code = QUICK.replace("agents.HEARTBEAT_S = 0.2", "agents.WANDB_FUNCTIONS['_agent_heartbeat'] = ['other']")
    with StandIn() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "QUICK", code)
        printed = finish(start(tmp_path, server, str(path)), code=1)
    assert "_agent_heartbeat(other)" in printed
    assert "wandb agent td3-brax/sweep" in printed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_in_the_middle(tmp_path: Path, number: int, code: int) -> None:
    path = write(tmp_path, {"seed": {"values": [0, 1, 2]}, "total_env_steps": {"value": 100_000_000}})
    process = start(tmp_path, None, str(path), "--wandb=offline")
    until = time.monotonic() + 120
    while not all((tmp_path / "out" / n / "policy_last.npz").exists() for n in ("001", "002")):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(number)
    printed = finish(process, code)
    assert printed.count("interrupted") == 4
    assert not (tmp_path / "out" / "003").exists()
    assert (tmp_path / "out" / "001" / "curve.png").exists()
    assert printed.count("wandb sync") == 2
    assert printed.splitlines()[-1].endswith(f"td3-brax sweep --resume {tmp_path / 'out'}")


LONG: dict[str, Any] = {
    "seed": {"values": [0, 1, 2]},
    "total_env_steps": {"value": 12_800},
    "eval_every": {"value": 1280},
    "checkpoint_every_min": {"value": 0.003},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(folder, None, str(write(folder, LONG)), "--wandb=disabled"))
    assert not list((folder / "out" / "checkpoints").iterdir())
    return folder / "out"


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGKILL, signal.SIGTERM), pytest.param((signal.SIGINT, signal.SIGKILL), marks=pytest.mark.slow)],
)
def test_a_sweep_that_is_stopped_goes_on_bit_for_bit(
    whole: Path, tmp_path: Path, numbers: tuple[int, int]
) -> None:
    """Stopped while the first two members train, and while the third has the place of one."""
    out = tmp_path / "out"
    process = start(tmp_path, None, str(write(tmp_path, LONG)), "--wandb=disabled")
    for name, number in zip(("001", "003"), numbers, strict=True):
        log = out / name / "metrics.jsonl"
        wait_for(lambda log=log: log.exists() and log.read_bytes().count(b"\n") > 20, process, 120)
        process.send_signal(number)
        printed = finish(process, {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 130}[number])
        assert "Traceback" not in printed
        process = start(tmp_path, None, f"--resume={out}")
    printed = finish(process)
    assert len(re.findall(r"^00\d  .*  12,800     done$", printed, re.MULTILINE)) == 3
    for name in ("001", "002", "003"):
        assert untimed(out / name) == untimed(whole / name)
        for policy in POLICIES:
            assert same_policies(out / name / policy, whole / name / policy)
    assert run.main([f"--resume={out}"]) == 0  # nothing is left to do


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "members.jsonl")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_a_lost_journal_trains_nobody_anew(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has ended has by its own folder; what is not known to have is never deleted."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before, ends = contents(out), journal.Journal(out).ends
    (out / "members.jsonl").unlink()
    assert run.main([f"--resume={out}"]) == 0
    assert contents(out) == before
    assert len(re.findall(r"^00\d  .*  12,800     done$", capsys.readouterr().out, re.MULTILINE)) == 3
    assert journal.Journal(out).ends == ends

    (out / "members.jsonl").unlink()
    log = out / "002" / "metrics.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    before, lost = contents(out), journal.Journal(out)
    assert [lost.reconcile(number, "eval/return_best", False) for number in (1, 2, 3)] == [True] * 3
    assert set(lost.ends) == {1, 3}
    assert {name.replace("002-before-1", "002"): text for name, text in contents(out).items()} == before
    assert not (out / "002").exists()


def test_a_member_that_diverged_has_ended_by_its_own_folder(tmp_path: Path) -> None:
    out = tmp_path / "001"
    out.mkdir()
    files.write_config(out, Config(**SMALL | {"hidden_sizes": (16, 16), "env": "ant"}))
    last = {"env_steps": 128, "wall_s": 1.0, "update/skipped": 3}
    (out / "metrics.jsonl").write_text(json.dumps(last) + "\n")
    lost = journal.Journal(tmp_path)
    assert lost.reconcile(1, "eval/return_best", False)
    assert (lost.ends[1].end, lost.ends[1].code) == ("diverged", 1)


def test_two_starts_in_one_folder_are_one_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path, {}), tmp_path / "out"
    out.mkdir()
    with folder.lock(out):
        assert run.main([str(path), "--wandb=disabled", f"--out={out}"]) == 2
    assert f"--out={out}" in capsys.readouterr().err


def test_what_does_not_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, {"gamma": {"min": 0.9, "max": 0.99}}, method="bayes")
    (tmp_path / "bayes").mkdir()
    plan = journal.Plan("small", 0, 2, 1, device.platform(), "online", "sweep", None, "td3-brax")
    journal.write_plan(tmp_path / "bayes", path.read_bytes(), plan)
    for argv, says in [
        ([], ["FILE", "--resume"]),
        ([f"--resume={tmp_path}"], [f"--resume={tmp_path}"]),
        ([f"--resume={tmp_path}", "--members=3"], [f"--resume={tmp_path}"]),
        ([f"--resume={tmp_path / 'bayes'}"], [f"--resume={tmp_path / 'bayes'}"]),
    ]:
        assert run.main(argv) == 2
        error = capsys.readouterr().err
        assert names(error, says), error
        assert error.count("\n") == 1


def test_without_network_nothing_is_begun(tmp_path: Path) -> None:
    path = write(tmp_path, {"seed": {"values": [0, 1]}})
    printed = finish(start(tmp_path, None, str(path)), code=2)
    assert names(printed.splitlines()[-1], ["--wandb=online", "offline", "disabled"])
    assert not (tmp_path / "out").exists()
