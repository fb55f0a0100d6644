"""The command line, config files, presets, schedule, and contract 10 (bad input gets one clear line)."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import asdict
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from said import names
from test_run import exit_code

from td3_brax import __main__, train
from td3_brax.algorithm.schedule import make_schedule
from td3_brax.cli import coerce, load_config, parse_train
from td3_brax.commands import eval as eval_command
from td3_brax.config import FIELDS, Config
from td3_brax.names import PRESETS
from td3_brax.option import ConfigError
from td3_brax.presets import resolve

# Values in every form.


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--hidden_sizes=[256, 256]"], "hidden_sizes", (256, 256)),
        (["--hidden_sizes", "[512,512]"], "hidden_sizes", (512, 512)),
        (["--hidden-sizes", "(256, 256)"], "hidden_sizes", (256, 256)),
        (["--hidden_sizes=256,128"], "hidden_sizes", (256, 128)),
        (["--hidden_sizes=64"], "hidden_sizes", (64,)),
        (["--hidden_sizes=[1e2, 64.0]"], "hidden_sizes", (100, 64)),
        (["--total_env_steps=1e6"], "total_env_steps", 1_000_000),
        (["--total_env_steps", "1_000_000"], "total_env_steps", 1_000_000),
        (["--total-env-steps=2.5e5"], "total_env_steps", 250_000),
        (["--batch_size", "100.0"], "batch_size", 100),
        (["--update_during_warmup=True"], "update_during_warmup", True),
        (["--update_during_warmup", "true"], "update_during_warmup", True),
        (["--update-during-warmup=False"], "update_during_warmup", False),
        (["--update_during_warmup=false"], "update_during_warmup", False),
        (["--actor_lr=3e-4"], "actor_lr", 3e-4),
        (["--actor-lr", ".0003"], "actor_lr", 3e-4),
        (["--gamma=1"], "gamma", 1.0),
        (["--out=1e6"], "out", "1e6"),
        (["--out", "a-b_c"], "out", "a-b_c"),
        (["--seed=0", "--seed=7"], "seed", 7),
        (["--env_args", '{"b": [0.2, 1], "a": true}'], "env_args", '{"a": true, "b": [0.2, 1]}'),
        (["--env-args={a: 0.1}"], "env_args", '{"a": 0.1}'),
        (["--env_args="], "env_args", ""),
        (["--env=playground:CheetahRun"], "env", "playground:CheetahRun"),
    ],
)
def test_a_value_is_read_in_the_form_it_is_given(argv: list[str], name: str, value: object) -> None:
    parsed = parse_train(argv)[0]
    assert parsed == {name: value}
    assert type(parsed[name]) is type(value)


YAML_FILE = """
# as a person or a sweep agent writes it
env: hopper
total_env_steps: 1e6
batch_size: 1_000
hidden_sizes: [64, 32]
actor_lr: 3e-4
critic_lr: 0.001
update_during_warmup: yes
seed: "3"
"""


def test_config_file_in_yaml_and_json_and_the_command_line_wins(tmp_path: Path) -> None:
    expected = {
        "env": "hopper",
        "total_env_steps": 1_000_000,
        "batch_size": 1000,
        "hidden_sizes": (64, 32),
        "actor_lr": 3e-4,
        "critic_lr": 1e-3,
        "update_during_warmup": True,
        "seed": 3,
    }
    (tmp_path / "c.yaml").write_text(YAML_FILE)
    (tmp_path / "c.json").write_text(json.dumps(expected))
    for file in ("c.yaml", "c.json"):
        loaded = parse_train(["--config", str(tmp_path / file)])[0]
        assert loaded == expected
        assert [type(v) for v in loaded.values()] == [type(v) for v in expected.values()]
        over = parse_train(["--batch-size=7", f"--config={tmp_path / file}", "--env=ant"])[0]
        assert over == expected | {"batch_size": 7, "env": "ant"}


def _values(name: str) -> st.SearchStrategy[Any]:
    """Values that the option ``name`` allows."""
    field = FIELDS[name]
    meta, kind = field.metadata, str(field.type)
    if meta["choices"] or name == "preset":
        return st.sampled_from(meta["choices"])
    if meta["mapping"]:
        return st.sampled_from(["", '{"frame_skip": 2, "healthy_z_range": [0.2, 1]}'])
    if kind == "bool":
        return st.booleans()
    if kind == "str":
        return st.text()
    if kind == "float":
        low = meta["at_least"] if meta["above"] is None else meta["above"]
        return st.floats(
            low, 10.0 if meta["at_most"] is None else meta["at_most"], exclude_min=meta["above"] is not None
        )
    top = 10**6 if meta["at_most"] is None else int(meta["at_most"])
    whole = st.integers(int(meta["at_least"] if meta["above"] is None else meta["above"] + 1), top)
    return st.lists(whole, min_size=1, max_size=4).map(tuple) if kind.startswith("tuple") else whole


@given(st.fixed_dictionaries({name: _values(name) for name in FIELDS}))
@settings(max_examples=50, suppress_health_check=[HealthCheck.filter_too_much], deadline=None)
def test_any_config_survives_its_own_json_and_the_command_line(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    try:
        config = Config(**values)
    except ConfigError:
        assume(False)
    file = tmp_path_factory.getbasetemp() / "config.json"
    file.write_text(json.dumps(asdict(config), indent=2) + "\n")
    assert Config(**load_config(str(file))) == config

    def typed(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    argv = [f"--{name.replace('_', '-')}={typed(value)}" for name, value in asdict(config).items()]
    assert Config(**parse_train(argv)[0]) == config


# The presets are the paper's and its authors'.

SHARED = {
    "num_envs": 1,
    "total_env_steps": 1_000_000,
    "updates_per_env_step": 1.0,
    "replay_capacity": 1_000_000,
    "n_step": 1,
    "lr_decay": 0.0,
    "gamma": 0.99,
    "tau": 0.005,
    "eval_tau": 1.0,
    "num_atoms": 1,
    "critic_action_scale": 1.0,
    "compute_dtype": "float32",
    "collect_time_limit": 0,
    "exploration_noise": 0.1,
    "exploration_noise_spread": 0.0,
    "target_noise_clip": 0.5,
    "normalize_obs": False,
    "spread_phases": False,
    "devices": 1,
    "time_limit": 1000,
}
PAPER = SHARED | {
    "hidden_sizes": (400, 300),
    "batch_size": 100,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "target_noise": 0.2,
    "policy_delay": 2,
    "num_critics": 2,
    "update_during_warmup": True,
}
EXPECTED = {
    "paper": PAPER,
    "our-ddpg": PAPER | {"target_noise": 0.0, "policy_delay": 1, "num_critics": 1},
    "author": PAPER
    | {
        "hidden_sizes": (256, 256),
        "batch_size": 256,
        "actor_lr": 3e-4,
        "critic_lr": 3e-4,
        "update_during_warmup": False,
    },
}
WARMUP = {
    ("paper", "ant"): 10_000,
    ("paper", "halfcheetah"): 10_000,
    ("paper", "hopper"): 1000,
    ("paper", "inverted_pendulum"): 1000,
    ("our-ddpg", "ant"): 10_000,
    ("our-ddpg", "hopper"): 1000,
    ("our-ddpg", "inverted_pendulum"): 1000,
    ("author", "ant"): 25_000,
    ("author", "hopper"): 25_000,
    ("author", "reacher"): 1000,
    ("author", "inverted_pendulum"): 1000,
    ("author", "inverted_double_pendulum"): 1000,
}


@pytest.mark.parametrize(("preset", "env"), WARMUP)
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_presets_are_the_published_values_on_any_device(preset: str, env: str, platform: str) -> None:
    config = asdict(resolve({"preset": preset, "env": env}, platform))
    expected = EXPECTED[preset] | {"warmup_env_steps": WARMUP[preset, env]}
    assert {name: config[name] for name in expected} == expected


def test_the_papers_noise_and_critics_are_in_the_tasks_units() -> None:
    """InvertedPendulum's actions reach from -3 to 3, ours from -1 to 1; of that is the later code's noise."""
    names = ("exploration_noise", "target_noise", "target_noise_clip")
    for preset, unit in (("paper", 3.0), ("author", 1.0)):
        config = asdict(resolve({"preset": preset, "env": "InvertedPendulum-v4"}, "cpu"))
        assert [config[name] * unit for name in names] == pytest.approx([0.1, 0.2, 0.5])
        assert config["critic_action_scale"] == 3


def test_an_explicit_option_wins_over_its_preset() -> None:
    for preset in PRESETS:
        assert resolve({"preset": preset, "batch_size": 77, "tau": 0.5}, "cpu").batch_size == 77


@pytest.mark.parametrize(
    ("asked", "warmup"),
    [
        ({}, 131_072),  # 128 of each of 1,024 environments
        ({"num_envs": 2048}, 262_144),
        ({"num_envs": 16}, 16_384),
        ({"total_env_steps": 400_000}, 50_000),
        ({"total_env_steps": 20_000}, 16_384),
        ({"warmup_env_steps": 1000}, 1000),
    ],
)
def test_quick_warms_up_for_its_environments_unless_it_is_told(asked: dict[str, int], warmup: int) -> None:
    assert resolve(asked, "cpu").warmup_env_steps == warmup


@pytest.mark.parametrize(
    ("name", "given", "plain"),
    [
        ("seed", np.int64(3), 3),
        ("seed", np.array(3), 3),
        ("seed", jnp.int32(3), 3),
        ("seed", np.float32(3), 3),
        ("gamma", np.float64(0.5), 0.5),
        ("gamma", np.float16(0.5), 0.5),
        ("gamma", jnp.float32(0.5), 0.5),
        ("normalize_obs", np.bool_(True), True),
        ("hidden_sizes", np.array([64, 32]), (64, 32)),
        ("hidden_sizes", [np.int64(64), np.int32(32)], (64, 32)),
        ("hidden_sizes", np.int64(64), (64,)),
        ("env", np.str_("hopper"), "hopper"),
        ("env_args", {"scale": np.float32(2), "range": np.array([1, 2])}, '{"range": [1, 2], "scale": 2.0}'),
    ],
)
def test_numbers_and_arrays_of_numpy_and_jax_are_taken(name: str, given: Any, plain: Any) -> None:
    made = coerce(name, given)
    assert made == plain
    assert type(made) is type(plain)


@pytest.mark.parametrize("value", [np.float64(0.5), np.array([1, 2]), np.nan, np.bool_(True)])
def test_numpys_are_refused_where_pythons_are(value: Any) -> None:
    with pytest.raises(ConfigError, match="--seed="):
        coerce("seed", value)


# Schedule.


@given(
    num_envs=st.integers(1, 4096),
    updates=st.integers(1, 256),
    steps=st.integers(1, 64),
    policy_delay=st.integers(1, 8),
    report_every=st.integers(1, 300_000),
    eval_every=st.integers(1, 1_000_000),
    total_env_steps=st.integers(1, 3_000_000),
    time_limit=st.integers(1, 1000),
)
def test_schedule_meets_the_ratio_exactly_and_refills_in_time(
    num_envs: int,
    updates: int,
    steps: int,
    policy_delay: int,
    report_every: int,
    eval_every: int,
    total_env_steps: int,
    time_limit: int,
) -> None:
    s = make_schedule(
        Config(
            num_envs=num_envs,
            updates_per_env_step=updates / (steps * num_envs),
            policy_delay=policy_delay,
            report_every=report_every,
            eval_every=eval_every,
            total_env_steps=total_env_steps,
            time_limit=time_limit,
            batch_size=1,
        )
    )
    assert Fraction(s.updates, s.steps * num_envs) == Fraction(updates, steps * num_envs)
    assert s.total_updates * steps == s.vector_steps * updates
    assert s.vector_steps == s.groups * s.blocks * s.rounds * s.steps
    assert s.env_steps == s.vector_steps * num_envs

    # The block is the smallest that holds whole vector steps, whole updates and whole policy delays.
    assert math.gcd(s.updates, s.steps) == 1
    assert [r for r in range(1, s.rounds + 1) if r * s.updates % policy_delay == 0] == [s.rounds]

    # A turn ends where the actor is updated, and nowhere before.
    ends = list(accumulate(s.turns, initial=0))
    for begin, end in pairwise(ends):
        actors = [r * s.updates // policy_delay for r in range(begin, end + 1)]
        assert len(set(actors[:-1])) == 1
        assert actors[-1] > actors[0]

    # Between two refills of the reset pool an environment can be reset once.
    block = s.rounds * s.steps
    assert s.blocks * block <= max(16, block)
    assert s.blocks * block <= max(time_limit, block)

    # Chunks cover the run and no more; reports come about as often as asked.
    assert (s.chunks - 1) * s.env_steps < total_env_steps <= s.chunks * s.env_steps
    assert abs(s.env_steps - report_every) <= (block + 16) * num_envs
    assert abs(s.chunks_per_eval * s.env_steps - eval_every) <= max(s.env_steps / 2, s.env_steps - eval_every)


@given(num_envs=st.integers(1, 4096), ratio=st.floats(1e-6, 8))
def test_a_ratio_that_cannot_be_met_is_refused_with_the_nearest_that_can(num_envs: int, ratio: float) -> None:
    def met(ratio: float) -> float:
        s = make_schedule(Config(num_envs=num_envs, updates_per_env_step=ratio, batch_size=1))
        return s.updates / (s.steps * num_envs)

    try:
        assert met(ratio) == pytest.approx(ratio, rel=1.1e-5)
    except ConfigError as error:
        line = str(error)
        assert line.startswith("--updates_per_env_step=")
        assert f"--num_envs={num_envs}" in line
        near = [float(word) for word in re.findall(r"[\d.e-]+", line.partition("nearest is ")[2])]
        above = [value for value in near if value > ratio]
        assert above
        assert len(near) == 2 or ratio < min(near) <= 1 / (64 * num_envs) * 1.0001
        for value in near:
            assert met(value) == pytest.approx(value, rel=1.1e-5)
            assert abs(value - ratio) <= 1 / (num_envs * 63)


# Help.


def test_help_tells_every_option_with_its_default_in_100_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "--config FILE" in text
    for name, field in FIELDS.items():
        entry = re.search(rf"^  --{name} .*?(?=^  --|^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        assert entry, name
        words = re.sub(r"\s", "", entry.group())
        assert re.sub(r"\s", "", field.metadata["help"]) in words
        assert "(default:" in words
        assert all(choice in words for choice in field.metadata["choices"])
    for group in {field.metadata["group"] for field in FIELDS.values()}:
        assert f"{group}:" in text


# Contract 10: one line that names option, value and what is allowed; exit code 2; nothing written.


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call a main with ``argv`` in an empty folder; the one line it refused it with."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)

    def started(*_: object) -> None:
        raise AssertionError("the job was started")

    def call(argv: list[str], main: Any = train.main, build: bool = False) -> str:
        with monkeypatch.context() as patch:
            if not build:
                patch.setattr(train.Run, "train", started)
            code = exit_code(main, argv)
        printed = capsys.readouterr()
        assert code == 2
        assert printed.out == ""
        assert printed.err.endswith("\n")
        assert len(printed.err.splitlines()) == 1
        assert list(cwd.iterdir()) == []
        return str(printed.err)

    return call


POSITIVE = [
    "total_env_steps",
    "num_envs",
    "time_limit",
    "updates_per_env_step",
    "batch_size",
    "replay_capacity",
    "hidden_sizes",
    "num_atoms",
    "n_step",
    "tau",
    "eval_tau",
    "actor_lr",
    "critic_lr",
    "policy_delay",
    "report_every",
    "eval_every",
    "eval_episodes",
]


def shown(name: str, value: str) -> str:
    """An option with its value, as a refusal has it."""
    return f"--{name}=[{value}]" if name == "hidden_sizes" else f"--{name}={value}"


FROM_ZERO = [
    "seed",
    "collect_time_limit",
    "warmup_env_steps",
    "exploration_noise",
    "exploration_noise_spread",
    "target_noise",
    "target_noise_clip",
]
FLOATS = [
    "updates_per_env_step",
    "gamma",
    "tau",
    "actor_lr",
    "critic_lr",
    "exploration_noise",
    "target_noise",
]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--env=antt"], ["--env=antt", "ant", "ant"]),
        (["--env=Ant-v3"], ["--env=Ant-v3", "playground:NAME", "Ant-v4", "Ant-v5", "Ant-v5"]),
        (["--env=HalfCheeta-v5"], ["--env=HalfCheeta-v5", "HalfCheetah-v5", "HalfCheetah-v5"]),
        (["--env=Ant-v5", "--backend=spring"], ["--backend=spring", "Ant-v5", "mjx"]),
        (["--env_args={a: 1}"], ['--env_args={"a": 1}', "ant"]),
        (["--env=Ant-v5", "--env_args=3"], ["--env_args=3", "mapping"]),
        (["--env", "half_cheetah"], ["--env=half_cheetah", "halfcheetah", "halfcheetah"]),
        (["--env", "Pong"], ["--env=Pong", "ant", "walker2d"]),
        (["--backend=mjxx"], ["--backend=mjxx", "generalized", "mjx", "mjx"]),
        (["--preset=papper"], ["--preset=papper", "quick", "author", "paper", "paper"]),
        (["--preset=ddpg"], ["--preset=ddpg", "our-ddpg", "our-ddpg"]),
        (["--bach_size=3"], ["--bach_size", "batch_size"]),
        (["--exploration-noize", "3"], ["--exploration_noize", "exploration_noise"]),
        (["--seed=-1"], ["--seed=-1", "0"]),
        (["--seed=1.5"], ["--seed=1.5", "whole"]),
        (["--seed=1e30"], [f"--seed={int(1e30)}", "2147483647"]),
        (["--seed"], ["--seed"]),
        (["ant"], ["ant"]),
        (["--num_envs=many"], ["--num_envs=many", "whole"]),
        (["--num_envs=true"], ["--num_envs=True", "whole"]),
        (["--num_envs=1e400"], ["--num_envs=inf", "whole"]),
        (["--total_env_steps=3e9"], ["--total_env_steps=3000000000", "2147483647"]),
        (["--time_limit=1e12"], ["--time_limit=1000000000000", "2147483647"]),
        (["--warmup_env_steps=1e12"], ["--warmup_env_steps=1000000000000", "2147483647"]),
        # Counters have 32 bits: rounded up to whole reports these would pass them.
        (["--total_env_steps=2147483647"], ["--total_env_steps=2147483647", "2147418112"]),
        (["--preset=paper", "--total_env_steps=2147483647"], ["--total_env_steps=2147483647", "2147480000"]),
        (["--report_every=1e10"], ["--report_every=10000000000", "2147483647"]),
        (["--num_envs=1e9", "--updates_per_env_step=1e-9"], ["--num_envs=1000000000", "2147483647"]),
        (
            ["--preset=paper", "--updates_per_env_step=1000", "--total_env_steps=3e6"],
            ["--updates_per_env_step=1000", "3000000"],
        ),
        (["--policy_delay=100000"], ["--policy_delay=100000", "64"]),
        (["--gamma=1.01"], ["--gamma=1.01", "1"]),
        (["--gamma=1.0000001"], ["--gamma=1.0000001", "1"]),
        (["--gamma=high"], ["--gamma=high", "number"]),
        (["--tau=2"], ["--tau=2", "1"]),
        (["--compute_dtype=float16"], ["--compute_dtype=float16", "bfloat16"]),
        (["--num_critics=3"], ["--num_critics=3", "2"]),
        (["--deterministic=2"], ["--deterministic=2", "true", "false"]),
        (["--hidden_sizes=[]"], ["--hidden_sizes=[]", "[256,256]"]),
        (["--hidden_sizes=[256, 0]"], ["--hidden_sizes=[256,0]", "0", "0"]),
        (["--hidden_sizes=[256, 1.5]"], ["--hidden_sizes=[256,1.5]", "[256,256]"]),
        (["--hidden_sizes=[256, [2]]"], ["--hidden_sizes=[256,[2]]", "[256,256]"]),
        (["--hidden_sizes=256,x"], ["--hidden_sizes=256,x", "[256,256]"]),
        (["--hidden_sizes", "256", "128"], ["128"]),
        (["--batch_size=3000", "--replay_capacity=2048"], ["--batch_size=3000", "2048", "--replay_capacity"]),
        (
            ["--updates_per_env_step=0.123456", "--num_envs=128"],
            ["--updates_per_env_step=0.123456", "--num_envs=128", "0.1234375", "0.12346311"],
        ),
        (["--updates_per_env_step=1e-9"], ["--updates_per_env_step=1e-09", "1.5258789e-05"]),
        (["--updates_per_env_step=1e308"], ["--updates_per_env_step=1e+308"]),
        (["--env=an\nt"], ["--env='an\\nt'"]),
        (["--config=absent.yaml"], ["--config=absent.yaml"]),
        (["--config=/"], ["--config=/"]),
        *[([f"--{name}=0"], [shown(name, "0"), "0"]) for name in POSITIVE],
        *[([f"--{name}=-3"], [shown(name, "-3"), "0"]) for name in POSITIVE],
        *[([f"--{name}=-3"], [f"--{name}=-3", "0"]) for name in FROM_ZERO],
        *[([f"--{name}=nan"], [f"--{name}=nan", "finite"]) for name in FLOATS],
        *[([f"--{name}=inf"], [f"--{name}=inf", "finite"]) for name in FLOATS],
    ],
    ids=lambda value: " ".join(value) if value and str(value[0]).startswith("--") else None,
)
def test_bad_options_are_refused_in_one_line(refused: Any, argv: list[str], words: list[str]) -> None:
    line = refused(argv)
    assert names(line, words), line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00garbage", []),
        (b"{unclosed: [", ["YAML", "JSON"]),
        (b"just text", ["name: value"]),
        (b"- a\n- b\n", ["name: value"]),
        (b"", ["name: value"]),
        (b"bach_size: 3\n", ["bach_size", "batch_size"]),
        (b"7: 3\n", ["7"]),
        (b"batch_size: [1, 2]\n", ["--batch_size=[1,2]", "whole"]),
        (b"batch_size: {a: 1}\n", ["--batch_size={'a': 1}", "whole"]),
        (b"batch_size: null\n", ["--batch_size=None", "whole"]),
        (b"env: null\n", ["--env=None"]),
        (b"out: null\n", ["--out=None"]),
        (b"out: [a]\n", ["--out=[a]"]),
        (b"out: 2020-01-01\nenv: nope\n", ["--env=nope"]),
        (b"gamma: .nan\n", ["--gamma=nan", "finite"]),
        (b"deterministic: maybe\n", ["--deterministic=maybe", "true", "false"]),
    ],
)
def test_bad_config_files_are_refused_in_one_line(
    refused: Any, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    line = refused([f"--config={file}"])
    assert names(line, words or [f"--config={file}"]), line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["absent"], ["absent"]),
        ([], ["run"]),
        (["absent", "--episodes=0"], ["--episodes", "0", "0"]),
        (["absent", "--episodes=x"], ["--episodes", "x"]),
        (["absent", "--seed=x"], ["--seed", "x"]),
        (["absent", "--which=bst"], ["--which", "bst", "best", "last"]),
        (["absent", "--episode=3"], ["--episode", "episodes"]),
    ],
)
def test_bad_options_of_eval_are_refused_in_one_line(refused: Any, argv: list[str], words: list[str]) -> None:
    line = refused(argv, eval_command.main)
    assert names(line, words), line


def test_an_unknown_command_is_refused_and_help_lists_them(
    refused: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["td3-brax", *argv])
        return __main__.main()

    line = refused(["trian"], main)
    assert names(line, ["trian", "train", "train"])
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        printed = capsys.readouterr().out
        assert all(command in printed for command in __main__.COMMANDS)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--replay_capacity=1e12"], ["--replay_capacity=1000000000000", "GB"]),
        (["--num_envs=5e8", "--updates_per_env_step=2e-9"], ["--num_envs=500000000", "GB"]),
    ],
)
def test_too_little_memory_is_found_before_compiling(
    refused: Any, monkeypatch: pytest.MonkeyPatch, argv: list[str], words: list[str]
) -> None:
    import jax

    def compiled(*_: object, **__: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiled)
    line = refused(["--env=inverted_pendulum", "--backend=spring", *argv], build=True)
    assert names(line, words), line


def test_bad_input_is_one_line_where_the_gpu_plugin_is_installed_without_a_gpu() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    argv = [sys.executable, "-m", "td3_brax.train", "--env=playground:Nothing"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout + done.stderr == done.stderr.splitlines()[-1] + "\n"
    assert "pip install 'td3-brax[playground]'" in done.stderr


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_platform_that_is_not_there_is_one_line(command: str, platform: str, tmp_path: Path) -> None:
    if platform == "cuda" and any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap"))):
        pytest.skip("there is a GPU")
    argv = [sys.executable, "-m", "td3_brax", command, "--env=inverted_pendulum", "--backend=spring"]
    environment = os.environ | {"JAX_PLATFORMS": platform}
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert f"JAX_PLATFORMS={platform}" in done.stderr
    assert not list(tmp_path.iterdir())
