"""Training from Python: ``td3_brax.fit``, tasks of one's own, and the examples."""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from test_run import OPTIONS, same_policies

import td3_brax
from td3_brax import train
from td3_brax.cli import parse_train
from td3_brax.config import Config
from td3_brax.envs.registry import make_task
from td3_brax.examples import own_task
from td3_brax.option import ConfigError
from td3_brax.runs import checkpoint, signals, tracking
from td3_brax.runs.program import Program

SMALL: dict[str, Any] = {
    name: yaml.safe_load(value) for name, value in (option[2:].split("=") for option in OPTIONS)
} | {"total_env_steps": 768, "seed": 3}
OWN = "td3_brax.examples.own_task:SwingUp"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> td3_brax.Result:
    return td3_brax.fit(**SMALL, out=str(tmp_path_factory.mktemp("fit") / "whole"))


def untimed(result: td3_brax.Result) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in r.items() if not k.startswith("time/") and k != "wall_s"} for r in result.reports
    ]


def test_it_is_the_command(whole: td3_brax.Result, tmp_path: Path) -> None:
    out = tmp_path / "command"
    assert train.main([*OPTIONS, "--total_env_steps=768", "--seed=3", f"--out={out}"]) == 0
    assert untimed(whole) == untimed(td3_brax.Result(out, 0))
    assert same_policies(whole.out / "policy_best.npz", out / "policy_best.npz")
    explicit = parse_train([*OPTIONS, "--total_env_steps=768", "--seed=3"])[0]
    assert {name: getattr(whole.config, name) for name in explicit} == explicit
    assert whole.exit_code == 0
    last = whole.policy("last")
    assert last.meta["return_mean"] == whole.reports[-1]["eval/return_mean"]
    assert last(np.zeros(4)).shape == (1,)


def test_numpys_numbers_and_a_jax_of_64_bits_change_nothing(whole: td3_brax.Result, tmp_path: Path) -> None:
    arrays = {"seed": np.int64(3), "hidden_sizes": np.array(SMALL["hidden_sizes"])}
    with jax.enable_x64(True):
        run = td3_brax.fit(**SMALL | arrays, out=tmp_path / "run")
        assert jnp.zeros(()).dtype == np.float64  # as before
    assert untimed(run) == untimed(whole)


@pytest.mark.slow
def test_nor_do_an_environment_of_64_bits_and_an_output_without_the_folders_letters(
    whole: td3_brax.Result, tmp_path: Path
) -> None:
    out = tmp_path / "größer → besser"
    environment = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONIOENCODING": "ascii"}
    argv = [sys.executable, "-m", "td3_brax.train", *OPTIONS, "--total_env_steps=768", "--seed=3"]
    done = subprocess.run([*argv, f"--out={out}"], env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert untimed(td3_brax.Result(out, 0)) == untimed(whole)
    shown = str(out).encode("ascii", "backslashreplace").decode()
    assert shown in done.stdout.decode("ascii")


def test_lines_for_people_are_escaped_where_a_programs_output_has_no_such_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    tracking.Display(1000).line("→ \udcff é")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u2192 \\udcff \\xe9\n"


@pytest.mark.parametrize(("answer", "stops"), [(np.True_, True), (np.False_, False), (1, False)])
def test_a_callbacks_answer_may_be_numpys(answer: Any, stops: bool, tmp_path: Path) -> None:
    options = SMALL | {"total_env_steps": 256, "checkpoint_every_min": 0}
    run = td3_brax.fit(**options, out=tmp_path / "run", callback=lambda _: answer)
    assert len(run.reports) == (1 if stops else 2)


def test_a_callback_sees_every_report_and_stops_the_run_which_goes_on_bit_for_bit(
    whole: td3_brax.Result, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []

    def third(report: dict[str, Any]) -> bool:
        seen.append(report)
        return len(seen) == 3

    first = td3_brax.fit(**SMALL, out=tmp_path / "run", callback=third)
    assert first.exit_code == signals.INTERRUPTED
    assert [report["env_steps"] for report in seen] == [128, 256, 384]
    assert "eval/return_mean" in seen[1]
    assert first.reports[-1]["env_steps"] == 384

    after: list[int] = []
    second = td3_brax.fit(resume=first.out, callback=lambda report: after.append(report["env_steps"]))
    assert second.exit_code == 0
    assert after == [512, 640, 768]
    assert untimed(second) == untimed(whole)
    assert same_policies(second.out / "policy_last.npz", whole.out / "policy_last.npz")


def test_a_callbacks_error_is_the_callers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def broken(report: dict[str, Any]) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        td3_brax.fit(**SMALL, out=tmp_path / "run", callback=broken)
    assert signal.getsignal(signal.SIGINT) is before
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_ctrl_c_before_training_is_the_callers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Program, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        td3_brax.fit(**SMALL, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_while_training_ends_the_run_saved(tmp_path: Path) -> None:
    def interrupt(report: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    result = td3_brax.fit(**SMALL, out=tmp_path / "run", callback=interrupt)
    assert result.exit_code == signals.INTERRUPTED
    assert len(result.reports) == 1
    assert any((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gama": 0.9}, "--gama=0.9"),
        ({"gamma": "much"}, "--gamma=much"),
        ({"env": "ants"}, "--env=ants"),
        ({"env": "no_such_module:Task"}, "--env=no_such_module:Task"),
        ({"env": "td3_brax.examples.own_task:SwingDown"}, "SwingUp"),
        ({"env": "td3_brax.policy:Policy", "env_args": {"x": 1}}, "td3_brax.policy:Policy"),
        ({"env": OWN, "env_args": {"gear": 1}}, "'gear'"),
        ({"env": OWN, "backend": "spring"}, "--backend=spring"),
        ({"env": "pathlib:Path"}, "action_high"),
        ({"critic": "pathlib:Path"}, "flax.linen.module.Module"),
        ({"critic": "lstm"}, "MODULE:NAME"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        td3_brax.fit(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_preset_takes_the_one_device_of_a_jax_that_has_started(tmp_path: Path) -> None:
    """In a notebook JAX may have been used before."""
    program = (
        "import jax; assert len(jax.devices()) == 1; import td3_brax; "
        f"options = { ({k: v for k, v in SMALL.items() if k != 'devices'} | {'total_env_steps': 128})!r}; "
        f"result = td3_brax.fit(**options, out={str(tmp_path / 'run')!r}); assert result.config.devices == 1"
    )
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300, env=clean)


def test_the_package_imports_without_jax() -> None:
    program = "import sys, td3_brax; assert not {'jax', 'yaml', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_notebook_shows_progress_in_one_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            shown.append(html)

    kernel = types.SimpleNamespace(kernel=object())
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: kernel  # type: ignore[attr-defined]
    module.display = types.SimpleNamespace(HTML=str, display=lambda *_, **__: Handle())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    display = tracking.Display(1000)
    display.begin()
    report = {"env_steps": 250, "time/env_steps_per_s": 10.0, "wall_s": 25.0, "train/return_mean": None}
    display.show(report)
    display.close()
    assert len(shown) == 1
    assert '<progress value="250" max="1000">' in shown[0]
    assert capsys.readouterr().out == ""


# A task of one's own.


def test_an_own_task_takes_under_60_lines() -> None:
    lines = [line for line in Path(own_task.__file__).read_text().splitlines() if line.strip()]
    assert len(lines) < 60


@pytest.mark.slow
def test_an_own_task_trains_and_is_looked_at(tmp_path: Path) -> None:
    sizes = {"num_envs": 8, "batch_size": 16, "hidden_sizes": [16], "replay_capacity": 1000, "devices": 1}
    spans = {"total_env_steps": 512, "report_every": 256, "eval_every": 256, "warmup_env_steps": 64}
    result = td3_brax.fit(
        env=OWN,
        time_limit=20,
        eval_episodes=2,
        checkpoint_every_min=0,
        out=tmp_path / "run",
        **sizes,
        **spans,
    )
    assert result.exit_code == 0
    for report in result.reports:
        assert 0 <= report["eval/return_mean"] <= 20
    command = [sys.executable, "-m", "td3_brax"]
    clean = {**os.environ, "JAX_PLATFORMS": "cpu"}
    for job in (
        ["eval", str(result.out), "--episodes=2"],
        ["render", str(result.out), "--html", "--seconds=1"],
    ):
        subprocess.run([*command, *job], check=True, timeout=300, env=clean)
    assert (result.out / "viewer.html").stat().st_size > 10_000


def test_an_own_network_is_the_critics_own(whole: td3_brax.Result, tmp_path: Path) -> None:
    own = td3_brax.fit(**SMALL, critic="td3_brax.examples.own_network:Normalized", out=tmp_path / "run")
    assert own.exit_code == 0
    assert all(np.isfinite(report["loss/critic"]) for report in own.reports[1:])
    assert own.reports[1]["loss/critic"] != whole.reports[1]["loss/critic"]
    arrays = checkpoint.load(checkpoint.saved(own.out)[0])[0]
    scales = [name for name in arrays if "critic_target" in name and "LayerNorm" in name and "scale" in name]
    assert [arrays[name].shape for name in sorted(scales)] == [(1, 2, 32)] * 2
    assert own.policy("last")(np.zeros(4)).shape == (1,)


def test_an_own_task_is_found_in_the_working_directory_and_takes_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tasks.py").write_text(
        "from td3_brax.examples.own_task import SwingUp\n\n\n"
        "class Longer(SwingUp):\n"
        "    def __init__(self, dt=0.04):\n"
        "        super().__init__()\n"
        "        self.dt = dt\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    explicit = parse_train(["--env=my_tasks:Longer", "--env_args", json.dumps({"dt": 0.1})])[0]
    assert make_task(Config(**explicit)).dt == 0.1


def test_the_example_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the example in small: the first evaluation passes for a good one, and both runs are short."""
    fit, out = td3_brax.fit, tmp_path / "run"

    def small(**options: Any) -> td3_brax.Result:
        if "resume" in options:
            assert options["total_env_steps"] == 256 + 100_000
            return fit(**options | {"total_env_steps": 512})
        assert options["env"] == "InvertedPendulum-v5"
        enough = options["callback"]

        def good(report: dict[str, Any]) -> bool:
            assert not enough(report)
            return bool(enough({name: value and 1000 for name, value in report.items()}))

        return fit(**SMALL | options | {"eval_every": 256, "callback": good, "out": out})

    monkeypatch.setattr(td3_brax, "fit", small)
    runpy.run_module("td3_brax.examples.go_on", run_name="__main__")
    said = capsys.readouterr().out
    assert "good enough after 256 environment steps" in said
    assert f"greedy return at the end: {td3_brax.Result(out, 0).reports[-1]['eval/return_mean']}" in said
    assert td3_brax.Result(out, 0).reports[-1]["env_steps"] == 512
