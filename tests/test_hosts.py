"""One run on two hosts: processes that meet on loopback and have a device each."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import mujoco
import pytest
from said import names
from test_resume import assert_same_run, lines, untimed
from test_run import MODULE, OPTIONS, make_run, wait_for

from td3_brax import fit
from td3_brax.config import Config
from td3_brax.envs.physics.mjx.patched import mjx
from td3_brax.option import ConfigError
from td3_brax.runs import checkpoint, files, hosts, resuming
from td3_brax.runs.device import resolve_devices
from td3_brax.runs.signals import PREEMPTED

RUN = [*MODULE, *OPTIONS, "--total_env_steps=12800", "--eval_every=2560", "--checkpoint_every_min=0.01"]
RUN += ["--seed=5", "--devices=2"]


@contextlib.contextmanager
def two(out: Path, *argv: str, own: Sequence[list[str]] = ([], [])) -> Iterator[list[subprocess.Popen[str]]]:
    """The same command, and what each has of its ``own``, on two hosts; both are gone afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [*RUN, f"--out={out}", *argv, *own[i]],
            env=environment | {"JAX_PROCESS_ID": str(i)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def alone(out: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The same on two devices of one process."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    argv = (*RUN, f"--out={out}", *argv)
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped, in one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = alone(out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_two_hosts_train_the_run_of_two_devices_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    """One of them is told to stop, both do after the same chunk, and both go on; files are written once."""
    out = tmp_path / "run"
    with two(out) as (first, second):
        wait_for(lambda: lines(out) > 5, second, 300)
        second.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=120) for process in (first, second)]
        assert (first.returncode, second.returncode) == (75, 75), said
    assert f"td3-brax train --resume {out}" in said[0][0]
    assert said[1][1].strip()
    assert "steps" not in said[1][0]
    (newest, *_) = checkpoint.saved(out)
    assert int(newest.name) == json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["env_steps"]

    with two(out, "--resume=auto") as (first, second):
        said = [process.communicate(timeout=300) for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), said
    assert f"{int(newest.name):,}" in said[0][0]
    assert_same_run(out, whole)
    assert len(json.loads((out / "about.json").read_text())) == 2


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_lost_host_ends_the_run_which_goes_on_elsewhere(whole: Path, tmp_path: Path, lost: int) -> None:
    """Killed; the other ends soon, with a line, and one process goes on from what was saved."""
    out = tmp_path / "run"
    with two(out) as processes:
        wait_for(lambda: len(checkpoint.saved(out)) > 0, processes[1 - lost], 300)
        processes[lost].kill()
        began = time.monotonic()
        said, errors = processes[1 - lost].communicate(timeout=4 * hosts.HEARTBEAT_S)
        assert time.monotonic() - began < 3 * hosts.HEARTBEAT_S
    if processes[1 - lost].returncode == 75:
        (line,) = [line for line in errors.splitlines() if line.startswith("td3-brax: ")]
        assert "td3-brax train --resume" in line
    else:  # it waited for the other outside a chunk: JAX ends it
        assert processes[1 - lost].returncode == -signal.SIGABRT, errors
    if lost == 1:
        (line,) = [line for line in said.splitlines() if "td3-brax train --resume" in line]
        assert names(line, ["2", "75", "134", str(out)])
    assert untimed(out) == untimed(whole)[: lines(out)]
    if lost == 0:  # as a stopped run goes on, above
        return
    done = alone(out, "--resume=auto")
    assert done.returncode == 0, done.stderr
    assert_same_run(out, whole)


def test_hosts_that_differ_are_told_so(tmp_path: Path) -> None:
    """Each says it, and nothing is left behind."""
    with two(tmp_path / "run", own=(["--gamma=0.9"], ["--gamma=0.8"])) as processes:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 2, errors
            assert "td3-brax: --devices=all: " in errors
    assert list(tmp_path.iterdir()) == []


def test_where_one_breaks_all_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other does not wait for ever."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "broken.py").write_text(
        "import os\nfrom td3_brax.examples.own_task import SwingUp\n\n"
        "def task():\n    assert os.environ['JAX_PROCESS_ID'] == '0', 'broken'\n    return SwingUp()\n"
    )
    out = tmp_path / "run"
    began = time.monotonic()
    with two(out, "--env=broken:task") as (first, second):
        _, errors = second.communicate(timeout=120)
        assert second.returncode == 1, errors
        assert "AssertionError: broken" in errors
        first.communicate(timeout=4 * hosts.HEARTBEAT_S)
        assert first.returncode in (75, -signal.SIGABRT)
    assert time.monotonic() - began < 6 * hosts.HEARTBEAT_S


def test_models_are_on_a_device_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """When this passes without ``patched._patch_mjx_device``, that patch can be removed."""
    own = jax.devices()[3:]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda: own)
    model = mjx.put_model(mujoco.MjModel.from_xml_string("<mujoco/>"))
    assert {leaf.device for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)} == {own[0]}
    assert mjx.make_data(model).qpos.device == own[0]


def test_a_run_takes_all_devices_of_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    asked = Config(num_envs=64, batch_size=64, devices=4)
    with pytest.raises(ConfigError, match=r"--devices=4: .*\b2\b.*\b8\b"):
        resolve_devices(asked)
    assert resolve_devices(asked, explicit=False).devices == 8
    assert resolve_devices(dataclasses.replace(asked, devices=0)).devices == 8


def test_a_signal_while_the_hosts_agree_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after this one has said that there was none, and counts after the next chunk."""
    agree, agreed = hosts.max_over_hosts, []

    def most(*values: int) -> list[int]:
        agreed.append(values[0])
        if len(agreed) == 3:
            signal.raise_signal(signal.SIGTERM)
        return agree(*values)

    monkeypatch.setattr(hosts, "max_over_hosts", most)
    run = make_run([*OPTIONS, "--total_env_steps=12800"], tmp_path / "run")
    assert run.code == PREEMPTED
    assert agreed == [0, 0, 0, PREEMPTED]


SLURM = {"SLURM_STEP_NODELIST": "node[1-4]", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("environment", "asked", "unasked"),
    [
        ({}, 1, 1),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, 1, 1),  # a batch script, which runs once
        (SLURM, 4, 1),  # as many runs of their own, until somebody says that they are one
        (SLURM | {"SLURM_NTASKS": "1"}, 1, 1),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2, 1),
        ({"JAX_NUM_PROCESSES": "3", **SLURM}, 3, 3),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1, 1),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, 2, 2),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 1, 1),
    ],
)
def test_only_processes_of_one_run_are_joined(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], asked: int, unasked: int
) -> None:
    for name in (*SLURM, "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hosts.expected_processes(all_devices=True) == asked
    assert hosts.expected_processes(all_devices=False) == unasked


def test_runs_of_their_own_in_one_srun_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trains; before, each waited for the others, and was told that they differ."""
    joined = []
    monkeypatch.setattr(hosts, "join", lambda: joined.append(1))
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    for seed in (1, 2):
        argv = [*OPTIONS, "--total_env_steps=256", f"--seed={seed}"]
        assert make_run(argv, tmp_path / f"{seed}").code == 0
    assert not joined
    monkeypatch.setattr(hosts, "join", lambda: (_ for _ in ()).throw(ConfigError("devices", "all", "met")))
    with pytest.raises(ConfigError, match="met"):
        fit(out=tmp_path / "one", devices="all")


def test_all_devices_may_be_said_again_where_a_run_goes_on(tmp_path: Path) -> None:
    """The folder knows how many they were; whether as many are there is found out later."""
    files.write_config(tmp_path, Config(devices=4))
    assert resuming.resumed_options(tmp_path, {"devices": 0})["devices"] == 4
    with pytest.raises(ConfigError, match="devices"):
        resuming.resumed_options(tmp_path, {"devices": 2})


def test_a_number_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES=two"):
        hosts.expected_processes()
