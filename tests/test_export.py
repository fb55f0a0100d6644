"""Exported policies: ONNX models against the NumPy policy, in onnxruntime, and the folder for the Hub."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from said import names

from td3_brax import Policy, __version__, load_policy
from td3_brax.cli import parse_train
from td3_brax.commands.export import card, onnx_model, run
from td3_brax.commands.export.score import make_score
from td3_brax.commands.score import play
from td3_brax.config import FIELDS, Config
from td3_brax.policy import save_policy
from td3_brax.presets import PLATFORMS, PRESETS, resolve
from td3_brax.runs.files import write_config

ROOT = Path(__file__).parent.parent
STORED = sorted((ROOT / "tests" / "policies").glob("*.npz"))
EPSILON = float(np.finfo(np.float32).eps)


def random_policy(
    seed: int, sizes: tuple[int, ...] = (5, 8, 3), clip: float = 10.0, env: str = "task"
) -> Policy:
    """A policy with these sizes, whose actions are spread over their ranges."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    middle, half = 10 * draw(sizes[-1]), np.exp(2 * draw(sizes[-1]))
    return Policy(
        env=env,
        weights=tuple(draw(a, b) / np.float32(a**0.5) for a, b in pairwise(sizes)),
        biases=tuple(draw(b) for b in sizes[1:]),
        obs_mean=10 * draw(sizes[0]),
        obs_deviation=np.maximum(np.exp(2 * draw(sizes[0])), np.float32(0.01)),
        obs_clip=clip,
        action_low=middle - half,
        action_high=middle + half,
        meta={
            "version": "0.1.9",
            "env_args": {"a": [1]},
            "time_limit": 70,
            "env_steps": 5,
            "return_mean": -1.5,
        },
    )


def in_onnxruntime(model: bytes | str, obs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["action"], {"obs": obs})[0]


def rounding(policy: Policy, obs: np.ndarray) -> np.ndarray:
    """Return how far float32's rounding can move actions [batch, A], in the action range.

    Without a clip, an observation of 1e6 makes sums whose rounding is no longer small beside tanh's width.
    """
    x = (obs.astype(np.float64) - policy.obs_mean) / policy.obs_deviation
    x = x.clip(-policy.obs_clip, policy.obs_clip)
    error = 4 * EPSILON * np.abs(x)
    for i, (weight, bias) in enumerate(zip(policy.weights, policy.biases, strict=True)):
        x = np.maximum(x, 0) if i else x
        error = error @ np.abs(weight) + (len(weight) + 2) * EPSILON * (
            np.abs(x) @ np.abs(weight) + np.abs(bias)
        )
        x = x @ weight + bias
    return (np.tanh(np.abs(x) + error) - np.tanh(np.abs(x) - error)) / 2


@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5).map(tuple),
    clip=st.sampled_from([10.0, 0.5, np.inf]),
    batch=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_a_model_acts_as_the_policy_does(seed: int, sizes: tuple[int, ...], clip: float, batch: int) -> None:
    policy = random_policy(seed, sizes, clip)
    model = onnx_model.make_model(policy).SerializeToString()
    noise = np.random.default_rng(seed + 1).normal(size=(batch, sizes[0]))
    obs = np.concatenate(
        [
            policy.obs_mean + 3 * policy.obs_deviation * noise,
            1e6 * noise,
            np.zeros((1, sizes[0])),
            np.full((1, sizes[0]), 1e6),
            np.full((1, sizes[0]), -1e6),
        ]
    ).astype(np.float32)
    expected, action = policy.predict(obs)[0], in_onnxruntime(model, obs)
    assert action.shape == expected.shape
    assert action.dtype == expected.dtype == np.float32
    fraction = 1e-5 + (rounding(policy, obs) if np.isinf(clip) else 0)
    span = policy.action_high - policy.action_low
    # A narrow range far from zero: neighbouring float32 are further apart than 1e-5 of it.
    resolution = np.spacing(np.maximum(np.abs(policy.action_low), np.abs(policy.action_high)))
    assert (np.abs(action - expected) <= fraction * span + 2 * resolution).all()
    assert onnx_model.check(policy, model) >= 0
    assert (action >= policy.action_low).all()
    assert (action <= policy.action_high).all()
    assert ("Clip" in {node.op_type for node in onnx.load_from_string(model).graph.node}) == np.isfinite(clip)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_actions_never_pass_the_limits(seed: int) -> None:
    """onnxruntime approximates tanh, which passes 1 where its argument is just below 9."""
    policy = random_policy(seed, (1, 40), np.inf)
    policy = dataclasses.replace(
        policy,
        weights=(np.ones((1, 40), np.float32),),
        biases=(np.zeros(40, np.float32),),
        obs_mean=np.zeros(1, np.float32),
        obs_deviation=np.ones(1, np.float32),
    )
    passing = np.linspace(8.8, 9, 4001)
    obs = np.concatenate([[-25], -passing, np.linspace(-8, 8, 99), passing, [25]])[:, None].astype(np.float32)
    action = in_onnxruntime(onnx_model.make_model(policy).SerializeToString(), obs)
    assert (action >= policy.action_low).all()
    assert (action <= policy.action_high).all()
    np.testing.assert_allclose(action[[0, -1]], [policy.action_low, policy.action_high], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("file", STORED, ids=lambda path: path.stem)
def test_stored_policies_are_exported_whole(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(b"an older one")
    assert run.main([str(file), f"--onnx={path}"]) == 0
    assert names(capsys.readouterr().out, [str(path), "opset", "13"])
    assert [found.name for found in tmp_path.iterdir()] == ["policy.onnx"]
    policy, model = load_policy(file), onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 13)]
    assert (model.producer_name, model.producer_version) == ("td3-brax", __version__)

    session = onnxruntime.InferenceSession(path)
    sizes = len(policy.obs_mean), len(policy.action_low)
    (taken,), (given_back,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, taken.type) == ("obs", ["batch", sizes[0]], "tensor(float)")
    assert (given_back.name, given_back.shape, given_back.type) == (
        "action",
        ["batch", sizes[1]],
        "tensor(float)",
    )
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["task"], facts["version"]) == (policy.env, policy.meta["version"])
    assert (int(facts["obs_size"]), int(facts["action_size"])) == sizes
    assert json.loads(facts["action_low"]) == policy.action_low.tolist()
    assert json.loads(facts["action_high"]) == policy.action_high.tolist()
    assert json.loads(facts["return_mean"]) == policy.meta["return_mean"]
    assert json.loads(facts["env_steps"]) == policy.meta["env_steps"]

    noise = np.random.default_rng(1).normal(0, 4, (500, sizes[0]))
    obs = (policy.obs_mean + policy.obs_deviation * noise).astype(np.float32)
    span = policy.action_high - policy.action_low
    assert (np.abs(in_onnxruntime(str(path), obs) - policy.predict(obs)[0]) / span).max() <= 1e-5


def test_facts_that_are_not_texts_are_json() -> None:
    facts = onnx_model.metadata(random_policy(0))
    assert json.loads(facts["env_args"]) == {"a": [1]}
    assert json.loads(facts["time_limit"]) == 70
    assert facts["version"] == "0.1.9"
    bare = onnx_model.metadata(dataclasses.replace(random_policy(0), meta={"return_mean": None}))
    assert {"env_args", "time_limit", "return_mean"}.isdisjoint(bare)


def test_the_example_plays_as_the_policy_does_without_td3_brax(tmp_path: Path) -> None:
    file = ROOT / "tests" / "policies" / "Reacher-v5.npz"
    policy = load_policy(file)
    policy = dataclasses.replace(
        policy, meta={**policy.meta, "env_args": {"reward_dist_weight": 2.0}, "time_limit": 40}
    )
    save_policy(policy, tmp_path / "policy_best.npz")
    assert run.main([str(tmp_path), f"--onnx={tmp_path / 'p.onnx'}"]) == 0
    example = ROOT / "docs" / "examples" / "play_onnx.py"
    block = "import runpy, sys; sys.modules.update(td3_brax=None, jax=None); runpy.run_path(sys.argv.pop(1))"
    done = subprocess.run(
        [sys.executable, "-c", block, example, tmp_path / "p.onnx"],
        capture_output=True,
        text=True,
        check=True,
    )
    config = Config(env="Reacher-v5", time_limit=40, env_args='{"reward_dist_weight": 2.0}')
    ((total, length),) = play(policy, "Reacher-v5", config, [0])
    assert length == 40
    assert float(done.stdout.split()[-1]) == pytest.approx(total, abs=2e-3)


def test_the_page_shows_the_example() -> None:
    program = (ROOT / "docs" / "examples" / "play_onnx.py").read_text().partition('"""\n\n')[2]
    assert f"```python\n{program}```" in (ROOT / "docs" / "policy.md").read_text()


KEPT = {"eval/return_kept": 310.0, "eval/return_kept_std": 40.0}
OPTIONS: dict[str, Any] = {"env": "InvertedPendulum-v5", "hidden_sizes": (8,), "eval_episodes": 16}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run's folder."""
    out = tmp_path / "home" / "somebody" / "run"
    out.mkdir(parents=True)
    config = resolve({**OPTIONS, "out": str(out), "seed": 3, "total_env_steps": 40_000}, "cpu")
    write_config(out, config)
    meta = {"version": "0.2.0", "env_args": {}, "time_limit": 1000}
    for name, env_steps in (("early", 10_000), ("best", 30_000), ("last", 40_000)):
        made = random_policy(env_steps, (4, 8, 1), env=config.env)
        save_policy(
            dataclasses.replace(made, meta={**meta, "env_steps": env_steps}), out / f"policy_{name}.npz"
        )
    scores = [
        (10_000, 100.0, 10.0, 0),
        (20_000, None, None, 16),
        (30_000, 350.0, 20.0, 0),
        (40_000, 300.0, 30.0, 4),
    ]
    reports = [
        {"env_steps": step, "eval/return_mean": mean, "eval/return_std": std, "eval/broken": broken}
        for step, mean, std, broken in scores
    ]
    reports[-1] |= KEPT
    (out / "metrics.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    (out / "curve.png").write_bytes(b"a picture")
    command = f"train.py --config {tmp_path}/private.yaml --out {out}"
    about = [{"command": command, "versions": {"td3-brax": "0.2.0", "jax": "0.10.2", "device": "a GPU, 1"}}]
    (out / "about.json").write_text(json.dumps(about))
    return out


def header(folder: Path) -> dict[str, Any]:
    before, text, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert before == ""
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


def test_the_cards_header_is_as_the_hub_wants_it(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "card"
    assert run.main([str(trained), f"--card={out}", "--license=cc-by-4.0"]) == 0
    data = header(out)
    assert data["license"] == "cc-by-4.0"
    assert data["library_name"] == "td3-brax"
    assert data["pipeline_tag"] == "reinforcement-learning"
    assert {"reinforcement-learning", "td3", "InvertedPendulum-v5"} <= set(data["tags"])
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert index["name"]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"] == {"type": "InvertedPendulum-v5", "name": "InvertedPendulum-v5"}
    (metric,) = result["metrics"]
    assert metric["type"] == metric["name"] == "mean_reward"
    # Reports have NumPy's deviation of the episodes; a card has the sample's.
    assert metric["value"] == f"310.00 +/- {40 * np.sqrt(16 / 15):.2f}"
    own = card.header(random_policy(0, env="my_tasks:Hover"), make_score(1, 1, 2), "unknown", [])
    assert own["model-index"][0]["results"][0]["dataset"] == {
        "type": "my_tasks-Hover",
        "name": "my_tasks:Hover",
    }


@pytest.mark.parametrize(
    ("which", "mean", "std", "episodes"),
    [("best", 310, 40, 16), ("last", 300, 30, 12), ("early", 100, 10, 16)],
)
def test_the_card_has_the_return_of_its_policy_and_its_interval(
    which: str, mean: float, std: float, episodes: int, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "card"
    assert run.main([str(trained), f"--card={out}", f"--which={which}"]) == 0
    text = (out / "README.md").read_text()
    spread = std * np.sqrt(episodes / (episodes - 1))
    half = 1.96 * spread / np.sqrt(episodes)
    assert names(
        text, [f"{mean} ± {spread:.0f}", f"{mean - half:.0f} to {mean + half:.0f}", f"{episodes} episodes"]
    )
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["README.md", "config.json", "curve.png", "policy.onnx", f"policy_{which}.npz"]
    )
    saved, exported = load_policy(trained, which), load_policy(out, which)
    obs = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_array_equal(saved(obs), exported(obs))
    np.testing.assert_allclose(
        in_onnxruntime(str(out / "policy.onnx"), obs), saved.predict(obs)[0], atol=1e-4
    )
    card_commands = re.findall(r"`(td3-brax (?:eval|play|render) [^`]+)`", text)
    assert [("--which" in one) for one in card_commands] == [which != "best"] * 3


def test_what_is_played_now_is_what_the_card_says(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returns = np.random.default_rng(0).normal(500, 50, 40)
    monkeypatch.setattr(run, "score_on_device", lambda *args: (returns[: args[3]], returns))
    assert run.main([str(trained), f"--card={tmp_path / 'card'}", "--episodes=40"]) == 0
    ends = returns.mean() + np.array([-1.96, 1.96]) * returns.std(ddof=1) / np.sqrt(40)
    text = (tmp_path / "card" / "README.md").read_text()
    assert names(text, [f"{ends[0]:.0f} to {ends[1]:.0f}", "40 episodes"])


def test_a_card_names_no_path_of_the_machine(trained: Path, tmp_path: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    where = f"{trained}/arm.xml"
    (trained / "config.json").write_text(json.dumps(config | {"env_args": json.dumps({"xml_file": where})}))
    policy = load_policy(trained)
    save_policy(
        dataclasses.replace(policy, meta={**policy.meta, "env_args": {"xml_file": where, "list": [where]}}),
        trained / "policy_best.npz",
    )
    out = tmp_path / "card"
    assert run.main([str(trained), f"--card={out}"]) == 0
    for path in out.iterdir():
        content = path.read_bytes()
        assert b"somebody" not in content, path
        assert str(tmp_path).encode() not in content, path
    assert load_policy(out).meta["env_args"] == {"xml_file": "arm.xml", "list": ["arm.xml"]}
    assert 'xml_file": "arm.xml' in (out / "README.md").read_text()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_cards_command_trains_with_the_same_options_on_any_platform(preset: str, platform: str) -> None:
    chosen = {"preset": preset, "env": "Ant-v5", "seed": 7, "hidden_sizes": (64, 32), "num_envs": 512}
    config = resolve({**chosen, "env_args": '{"healthy_z_range": [0.3, 1.0]}', "lr_decay": 1 / 3}, platform)
    text = " ".join(card.training_command(config)).replace("\\\n", "")
    command, word, *argv = shlex.split(text)
    assert (command, word) == ("td3-brax", "train")
    for other in PLATFORMS:
        made = resolve(parse_train(argv)[0], other)
        differing = {name for name in FIELDS if getattr(made, name) != getattr(config, name)}
        assert differing <= card.NOT_LEARNING
    assert "--out" not in text


def test_the_cards_programs_run(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "card"
    assert run.main([str(trained), f"--card={out}"]) == 0
    programs = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), flags=re.S)
    assert len(programs) == 3
    for program in programs:
        done = subprocess.run([sys.executable, "-c", program], cwd=out, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_card_is_renewed_but_nothing_else_is_overwritten(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "card"
    assert run.main([str(trained), f"--card={out}", "--which=last"]) == 0
    assert "license" in capsys.readouterr().out
    assert run.main([str(trained), f"--card={out}", "--license=mit"]) == 0
    assert "--license" not in capsys.readouterr().out
    assert [path.name for path in out.glob("policy_*")] == ["policy_best.npz"]
    assert header(out)["license"] == "mit"

    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "README.md").write_text("# Mine\n")
    before = {path: path.read_bytes() for path in trained.iterdir()}
    for folder, why in ((foreign, "README.md"), (trained, "folder of a run")):
        assert run.main([str(trained), f"--card={folder}"]) == 2
        errors = capsys.readouterr().err
        assert names(errors, [f"--card={folder}", why])
        assert errors.count("\n") == 1
    assert [path.name for path in foreign.iterdir()] == ["README.md"]
    assert {path: path.read_bytes() for path in trained.iterdir()} == before


def test_without_the_extra_there_is_a_card_and_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "td3_brax.commands.export.onnx_model")
    monkeypatch.setattr("td3_brax.commands.export.onnx_model", None, raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run.main([str(trained), f"--onnx={tmp_path / 'p.onnx'}"]) == 2
    errors = capsys.readouterr().err
    assert names(errors, [f"--onnx={tmp_path / 'p.onnx'}"])
    assert "pip install 'td3-brax[onnx]'" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "p.onnx").exists()
    assert run.main([str(trained), f"--card={tmp_path / 'card'}"]) == 0
    assert "pip install 'td3-brax[onnx]'" in capsys.readouterr().out
    assert not (tmp_path / "card" / "policy.onnx").exists()
    assert "onnx" not in (tmp_path / "card" / "README.md").read_text()


def test_a_model_that_acts_otherwise_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = onnx_model.make_model
    monkeypatch.setattr(
        onnx_model,
        "make_model",
        lambda policy: honest(dataclasses.replace(policy, obs_mean=policy.obs_mean + np.float32(0.1))),
    )
    path = tmp_path / "p.onnx"
    path.write_bytes(b"an older one")
    assert run.main([str(trained), f"--onnx={path}", f"--card={tmp_path / 'card'}"]) == 2
    assert "differs" in capsys.readouterr().err
    assert path.read_bytes() == b"an older one"
    assert not (tmp_path / "card").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], ["--onnx=FILE", "--card=DIR"]),
        (["--onnx=policy.npz"], ["--onnx=policy.npz", ".onnx"]),
        (["--onnx=nowhere/p.onnx"], ["--onnx=nowhere/p.onnx"]),
        (["--onnx=p.onnx", "--which=worst"], ["--which", "best", "last", "early"]),
        (["--card=card", "--license=Apache 2.0"], ["--license", "Apache 2.0", "apache-2.0"]),
        (["--card=card", "--licence=mit"], ["--licence", "license"]),
        (["--card=run/metrics.jsonl"], ["--card=run/metrics.jsonl"]),
    ],
)
def test_wrong_options_are_told_in_one_line_and_nothing_is_written(
    argv: list[str],
    says: list[str],
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(trained.parent)
    before = sorted(trained.parent.rglob("*"))
    try:
        code = run.main(["run", *argv])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    errors = capsys.readouterr().err
    assert names(errors, says), errors
    assert errors.count("\n") == 1
    assert sorted(trained.parent.rglob("*")) == before


def test_a_run_without_fresh_returns_says_how_to_get_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (trained / "metrics.jsonl").read_text()
    later = json.dumps({"env_steps": 50_000, "eval/return_mean": 1.0, "eval/return_std": 1.0}) + "\n"
    (trained / "metrics.jsonl").write_text(lines + later)
    assert run.main([str(trained), f"--card={tmp_path / 'card'}"]) == 2
    assert names(capsys.readouterr().err, [str(trained), "--episodes=100"])
    assert run.main([str(trained / "policy_best.npz"), f"--card={tmp_path / 'card'}"]) == 2
    assert "contains no run" in capsys.readouterr().err
    assert not (tmp_path / "card").exists()
