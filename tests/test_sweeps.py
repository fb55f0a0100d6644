"""The sweeps of ``sweeps/``: every combination is one that we take, and W&B's own agent runs them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from standin import StandIn
from test_wandb import sent, written

from td3_brax.algorithm.schedule import make_schedule
from td3_brax.cli import parse_train
from td3_brax.presets import PLATFORMS, resolve

SWEEPS = Path(__file__).parents[1] / "sweeps"
FILES = sorted(SWEEPS.glob("*.yaml"))


def values_of(parameter: dict[str, Any]) -> list[Any]:
    """All values of a list; the ends of a range."""
    if "value" in parameter:
        return [parameter["value"]]
    if "values" in parameter:
        return list(parameter["values"])
    assert parameter["distribution"] in ("uniform", "log_uniform_values", "int_uniform")
    ends = [parameter["min"], parameter["max"]]
    assert all(isinstance(end, int | float) for end in ends), "a number that YAML read as text"
    assert ends[0] < ends[1]
    return ends


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_combination_is_one_that_we_take(file: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    ranges = [p for p in sweep["parameters"].values() if "distribution" in p]
    assert bool(ranges) == (sweep["method"] in ("random", "bayes"))
    assert (SWEEPS.parent / sweep["program"]).is_file()
    assert sweep["metric"]["name"] in ("eval/return_kept", "eval/return_mean")
    assert sweep["metric"]["goal"] == "maximize"
    combinations = list(itertools.product(*map(values_of, sweep["parameters"].values())))
    if sweep["method"] == "grid":
        assert sweep["run_cap"] == len(combinations)
    for combination in combinations:
        argv = [f"--{name}={value!s}" for name, value in zip(sweep["parameters"], combination, strict=True)]
        for platform in PLATFORMS:
            config = resolve(parse_train(argv)[0], platform)
            schedule = make_schedule(config)
            if "early_terminate" in sweep and platform != "gpu":
                evaluations = schedule.chunks // schedule.chunks_per_eval
                assert evaluations >= 2 * sweep["early_terminate"]["min_iter"]


def test_wandbs_agent_runs_a_sweep(tmp_path: Path) -> None:
    with StandIn() as server:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = clean | server.environment(tmp_path) | {"PATH": path}

        def wandb(*argv: str) -> str:
            command = [sys.executable, "-m", "wandb", *argv]
            done = subprocess.run(
                command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        printed = wandb("sweep", "--project", "td3-brax", str(SWEEPS / "smoke.yaml"))
        assert "someone/td3-brax/sweep" in printed
        options = {
            k: v["value"] for k, v in yaml.safe_load(server.sweep)["parameters"].items() if "value" in v
        }
        # Other kinds of values, as an agent writes them, and what it adds to a run that it starts again.
        options |= {"update_during_warmup": True, "gamma": 0.98, "env_args": "", "_wandb": {"a": 1}}
        server.queue = [("one", options | {"seed": 0}), ("two", options | {"seed": 1, "wandb": "online"})]
        wandb("agent", "someone/td3-brax/sweep")

        for seed, run in enumerate(("one", "two")):
            assert server.ends[run][-1] == {"complete": True, "exitcode": 0}
            config = server.config[run]
            assert config["seed"] == seed
            assert {k: config[k] for k in options if k != "_wandb"} == {
                k: v for k, v in options.items() if k != "_wandb"
            }
            assert server.summary[run]["eval/return_best"] > 0
            (out,) = tmp_path.glob(f"runs/*-s{seed}-*")
            assert [line for line in sent(server, run) if line] == written(out)
