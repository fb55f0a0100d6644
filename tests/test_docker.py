"""Docker's scripts, with stand-ins on PATH for td3-brax, nvidia-smi and scontrol; the lists; the cloud's job.

The images themselves need an engine to be built: docker/README.md says what was checked without one.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from td3_brax.train import PREEMPTED

DOCKER = Path(__file__).parent.parent / "docker"
COMMAND = 'echo "$$ $CUDA_VISIBLE_DEVICES $*" >> "$SEEN"\n'
"""A td3-brax that tells of itself."""
WAITING = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
with open(os.environ["SEEN"], "a") as seen:
    print(os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), *sys.argv[1:], file=seen)
time.sleep(30)
"""
WAITS = f'exec {sys.executable} -c {shlex.quote(WAITING)} "$@"\n'
"""One that goes on until it is stopped: by SIGINT too, which shells have what runs beside them ignore."""
H100 = "580.95.05, NVIDIA H100 80GB HBM3"

Shell = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Starts one of docker's scripts in ``tmp_path``, where ``commands`` (their text, for sh) come first."""

    def start(script: str, *arguments: str, env: dict[str, str] | None = None, **commands: str) -> Any:
        place = tmp_path / "bin"
        place.mkdir(exist_ok=True)
        for name, text in commands.items():
            path = place / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{text}")
            path.chmod(0o755)
        known = {"PATH": f"{place}:{os.environ['PATH']}", "HOME": f"{tmp_path}", "SEEN": f"{tmp_path}/seen"}
        return subprocess.Popen(
            [str(DOCKER / script), *arguments],
            cwd=tmp_path,
            env=known | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # What the shell that started the tests may have had them ignore, no trap would catch.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def started(tmp_path: Path, count: int) -> list[list[str]]:
    """What the stand-ins told of themselves: number of the process, GPU, arguments; once ``count`` have."""
    for _ in range(200):
        seen = tmp_path / "seen"
        lines = seen.read_text().splitlines() if seen.exists() else []
        if len(lines) >= count:
            return [line.split(" ", 2) for line in lines]
        time.sleep(0.05)
    raise AssertionError(f"{count} were to start")


@pytest.mark.parametrize(
    ("image", "smi", "said"),
    [
        ("cpu", "exit 9", "for CPUs"),
        ("cuda", f"echo '{H100}'; echo '{H100}'", "CUDA 13, driver 580.95.05: 2 NVIDIA H100 80GB HBM3"),
        ("cuda", "echo '570.12, NVIDIA L4'", "CUDA 13 needs 580 or newer.* EXTRA=cuda12"),
        ("cuda12", "echo '570.12, NVIDIA L4'", "CUDA 12, driver 570.12: 1 NVIDIA L4"),
        ("cuda12", "echo '470.82, Tesla T4'", "CUDA 12 needs 525 or newer. Update the host's driver$"),
        ("cuda", "echo no devices; exit 6", r"no GPU is seen \(no devices\).* --gpus all"),
        ("cuda", "exit 0", "no GPU is seen.* --gpus all"),
    ],
)
def test_entry_says_what_device_there_is(shell: Shell, image: str, smi: str, said: str) -> None:
    run = shell("entrypoint.sh", "plan", env={"TD3_BRAX_IMAGE": image}, td3_brax=COMMAND, nvidia_smi=smi)
    out, err = run.communicate(timeout=20)
    assert run.returncode == 0
    assert out == ""
    assert re.search(said, err, re.MULTILINE), err
    assert ("too old" in err) == ("needs" in said)
    assert "key" not in err
    assert "written" not in err


@pytest.mark.parametrize(
    ("arguments", "env", "missing"),
    [
        ("train", {}, False),
        ("train --wandb offline", {}, False),
        ("train --wandb online", {}, True),
        ("train --wandb=online", {"WANDB_API_KEY": "k"}, False),
        ("train", {"WANDB_SWEEP_ID": "s"}, True),
        ("sweep a.yaml", {}, True),
        ("sweep a.yaml", {"WANDB_API_KEY": "k"}, False),
        ("sweep a.yaml --wandb=disabled", {}, False),
    ],
)
def test_entry_misses_a_key_where_one_is_needed(
    shell: Shell, arguments: str, env: dict[str, str], missing: bool
) -> None:
    run = shell("entrypoint.sh", *arguments.split(), env=env, td3_brax=COMMAND)
    assert ("no key for W&B" in run.communicate(timeout=20)[1]) == missing


def test_entry_says_what_can_not_be_written(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in its way")
    run = shell("entrypoint.sh", "train", td3_brax=COMMAND)
    err = run.communicate(timeout=20)[1]
    assert re.search(r"/runs can't be written by user \d+: .*--user", err)
    assert err.count("written") == 1


def test_entry_becomes_the_command(shell: Shell, tmp_path: Path) -> None:
    run = shell("entrypoint.sh", "train", "--env", "a b", td3_brax=WAITS)
    ((process, _, arguments),) = started(tmp_path, 1)
    assert (int(process), arguments) == (run.pid, "train --env a b")
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=20)
    assert run.returncode == 75


def test_sweeps_share_the_gpus(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    till_all_ran = 'until [ "$(wc -l < "$SEEN")" = 4 ]; do sleep 0.05; done'
    ends = f'{COMMAND}case "$*" in *bad*) exit 3 ;; *slow*) {till_all_ran} ;; esac\n'
    smi = "echo 0; echo 1"
    run = shell("sweep-agents.sh", "slow", "bad", "begun", "c", td3_brax=ends, nvidia_smi=smi)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 3, err
    ran = [line[1:] for line in started(tmp_path, 4)]
    assert [sweep for gpu, sweep in ran if gpu == "0"] == ["sweep slow"]
    assert [sweep for gpu, sweep in ran if gpu == "1"] == ["sweep bad", "sweep --resume begun", "sweep c"]
    assert "bad ended with code 3" in err


def test_sweeps_take_the_gpus_they_are_given(shell: Shell, tmp_path: Path) -> None:
    run = shell("sweep-agents.sh", "a", "b", env={"CUDA_VISIBLE_DEVICES": "3,7"}, td3_brax=COMMAND)
    run.communicate(timeout=20)
    assert run.returncode == 0
    assert sorted(line[1:] for line in started(tmp_path, 2)) == [["3", "sweep a"], ["7", "sweep b"]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_sweeps_stop_together(shell: Shell, tmp_path: Path, number: int, code: int) -> None:
    run = shell("sweep-agents.sh", "a", "b", "c", td3_brax=WAITS, nvidia_smi="echo 0; echo 1")
    started(tmp_path, 2)
    run.send_signal(number)
    _, err = run.communicate(timeout=20)
    assert run.returncode == code, err
    assert len(started(tmp_path, 2)) == 2
    assert err.count(f"ended with code {code}") == 2


@pytest.mark.parametrize(
    ("number", "requeued"),
    [(signal.SIGUSR1, True), (signal.SIGTERM, False)],
    ids=["time limit", "preempted"],
)
def test_slurm_requeues_what_its_time_limit_stops(
    shell: Shell, tmp_path: Path, number: int, requeued: bool
) -> None:
    asked = 'echo "$*" > asked\n'
    env = {"SLURM_JOB_ID": "12"}
    run = shell("slurm.sh", "--env", "ant", env=env, td3_brax=WAITS, scontrol=asked)
    ((_, _, arguments),) = started(tmp_path, 1)
    assert arguments == "train --out runs/slurm-12 --resume auto --env ant"
    run.send_signal(number)
    run.communicate(timeout=20)
    assert run.returncode == 75
    told = tmp_path / "asked"
    assert (told.read_text() if told.exists() else "") == "requeue 12\n" * requeued


def test_the_cloud_job_is_one() -> None:
    text = (DOCKER / "skypilot.yaml").read_text()
    job = yaml.safe_load(text)
    assert job["resources"]["job_recovery"] == {"recover_on_exit_codes": [PREEMPTED]}
    assert job["secrets"] == {"WANDB_API_KEY": None}
    assert job["file_mounts"]["/bucket"]["mode"] == "MOUNT_CACHED"
    lines = [line.strip() for line in job["run"].splitlines()]
    assert not any(line.startswith(("exec", "set -e")) for line in lines)  # SkyPilot's own end follows
    assert {*job} <= {"name", "resources", "envs", "secrets", "file_mounts", "workdir", "setup", "run"}
    assert {*job["resources"]} <= {"accelerators", "use_spot", "job_recovery"}
    assert {*job["file_mounts"]["/bucket"]} <= {"name", "mode"}
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", job[part]], check=True)
        used = set(re.findall(r"\$\{?([A-Za-z]\w*)", job[part]))
        set_there = set(re.findall(r"(?:^|[\s;])(\w+)=", job[part]))
        assert used <= {*job["envs"], *job["secrets"], *set_there, "HOME"}
    mentioned = re.findall(r"--(?:env|secret) ([A-Z_]+)", text)
    assert {*mentioned} <= {*job["envs"], *job["secrets"]}


def test_skypilot_takes_the_cloud_job() -> None:
    """Its own reader, where it is installed: it is large, and no part of the test extra."""
    sky = pytest.importorskip("sky", reason="pip install skypilot")
    job = yaml.safe_load((DOCKER / "skypilot.yaml").read_text())
    given = {"env_overrides": [("BUCKET", "b")], "secrets_overrides": [("WANDB_API_KEY", "k")]}
    task = sky.Task.from_yaml_config(job, **given)
    assert "/bucket" in task.storage_mounts


@pytest.mark.skipif(not all(map(shutil.which, ("rsync", "flock"))), reason="SkyPilot's machines have them")
@pytest.mark.parametrize("found", [False, True])
def test_the_cloud_job_keeps_what_it_leaves(tmp_path: Path, found: bool) -> None:
    kept = tmp_path / "bucket/runs/a"
    if found:
        kept.mkdir(parents=True)
        (kept / "old").write_text("1")
    program = tmp_path / "td3/bin/td3-brax"
    program.parent.mkdir(parents=True)
    program.write_text(
        '#!/bin/sh\nshift 2; cd "$1"; ls > seen; rm -f old; echo 2 > new; mkdir .3.tmp\n'
        "kill -s TERM $PPID; exit 75\n"
    )
    program.chmod(0o755)
    script = yaml.safe_load((DOCKER / "skypilot.yaml").read_text())["run"].replace(
        "/bucket", f"{tmp_path}/bucket"
    )
    env = {"PATH": os.environ["PATH"], "HOME": f"{tmp_path}", "RUN": "a", "OPTIONS": "--env ant"}
    assert subprocess.run(["bash", "-c", script], env=env, timeout=20).returncode == PREEMPTED
    assert sorted(path.name for path in kept.iterdir()) == ["new", "seen"]
    assert (kept / "seen").read_text().split() == ["old"] * found + ["seen"]


@pytest.mark.parametrize("extra", ["cuda", "cuda12"])
def test_what_images_install_is_pinned(extra: str) -> None:
    """Within the bounds that users get, and to what the tests are known to pass with."""
    python = {"python_version": "3.12", "python_full_version": "3.12.13"}

    def pins(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        wanted = [Requirement(line) for line in lines]
        there = [one for one in wanted if one.marker is None or one.marker.evaluate(python)]
        assert not any(one.url for one in there)
        return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in there}

    pinned = pins(DOCKER / "constraints.txt")
    project = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text())
    names = project["build-system"]["requires"] + project["project"]["dependencies"]
    for one in map(Requirement, names + project["project"]["optional-dependencies"][extra]):
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one
    assert {pinned[f"jax-cuda{n}-{part}"] for n in (12, 13) for part in ("plugin", "pjrt")} == {pinned["jax"]}
    tested = pins(DOCKER.parent / "tests/constraints.txt")
    both = tested.keys() & pinned.keys()
    assert {name: pinned[name] for name in both} == {name: tested[name] for name in both}


@pytest.mark.parametrize("arguments", [[], ["a"]])
def test_sweeps_need_gpus_and_sweeps(shell: Shell, arguments: list[str]) -> None:
    smi = "exit 9" if arguments else "echo 0"
    run = shell("sweep-agents.sh", *arguments, td3_brax=COMMAND, nvidia_smi=smi)
    assert "needs GPUs" in run.communicate(timeout=20)[1]
    assert run.returncode == 2
