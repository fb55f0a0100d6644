"""Write a folder for the Hugging Face Hub: a model card with its metadata, the policy, and its options."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from td3_brax.commands.export.score import Score
from td3_brax.commands.report.runs import Run
from td3_brax.config import FIELDS, Config
from td3_brax.names import GYMNASIUM_TASKS, USER_CODE
from td3_brax.option import ConfigError, show
from td3_brax.policy import Policy, save_policy
from td3_brax.presets import PLATFORMS, resolve
from td3_brax.runs.files import write_atomically, write_config
from td3_brax.runs.formatting import command, counted, number, spread

CARD = "README.md"
LIBRARY = "library_name: td3-brax"
"""Line of the header by which a card of an earlier export is known."""
TEMPLATE = "card.md.jinja"
NOT_LEARNING = {"out", "devices", "wandb", "film"} | {n for n in FIELDS if n.startswith("checkpoint_")}
"""Options that say where a run is computed and saved, and not what is learnt."""


def without_paths(value: Any) -> Any:
    """Return ``value`` with each absolute path in it cut to the name of its file."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_paths(item) for item in value)
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        return Path(value).name
    return value


def public_config(config: Config) -> Config:
    """Return the options without the run's folder and without paths of the machine."""
    values = {name: without_paths(value) for name, value in dataclasses.asdict(config).items()}
    if config.env_args:
        values["env_args"] = json.dumps(without_paths(json.loads(config.env_args)), sort_keys=True)
    return Config(**values | {"out": ""})


def public_policy(policy: Policy) -> Policy:
    """Return the policy without paths of the machine in its facts."""
    return dataclasses.replace(policy, meta=without_paths(policy.meta))


def training_command(config: Config) -> list[str]:
    """Return the parts of a command that trains with the same options on any platform.

    It has each option that the preset sets otherwise on at least one platform.
    """
    chosen = {"preset": config.preset, "env": config.env}
    presets = [resolve(chosen, platform) for platform in PLATFORMS]
    options = dict(chosen)
    if config.preset == FIELDS["preset"].default:
        del options["preset"]
    for name in FIELDS:
        value = getattr(config, name)
        if name not in NOT_LEARNING and any(value != getattr(preset, name) for preset in presets):
            options[name] = value
    return ["td3-brax train", *(shlex.quote(f"--{name}={show(value)}") for name, value in options.items())]


def header(policy: Policy, score: Score, license: str, tags: list[str]) -> dict[str, Any]:
    """Return the card's metadata, as the Hub reads them."""
    result = {
        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
        # An identifier, unlike the name: letters, digits and ``_.-``.
        "dataset": {"type": re.sub(r"[^\w.-]+", "-", policy.env, flags=re.A), "name": policy.env},
        "metrics": [
            {
                "type": "mean_reward",
                "name": "mean_reward",
                "value": f"{score.mean:.2f} +/- {score.std:.2f}",
                "verified": False,
            }
        ],
    }
    return {
        "license": license,
        "library_name": "td3-brax",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "deep-reinforcement-learning", "td3", policy.env, *tags],
        "model-index": [{"name": "TD3", "results": [result]}],
    }


def check_folder(out: Path) -> None:
    """Refuse a folder in which a card would replace something else.

    Raises:
        ConfigError: the folder is that of a run, or its README.md is not a card of td3-brax.
    """
    if (out / "metrics.jsonl").exists() or (out / "checkpoints").exists():
        raise ConfigError("card", str(out), "is the folder of a run; choose another, such as a new one in it")
    try:
        there = (
            (out / CARD).read_text(encoding="utf-8", errors="replace") if (out / CARD).exists() else LIBRARY
        )
    except OSError as error:
        raise ConfigError("card", str(out), f"can't be written ({error.strerror})") from None
    if LIBRARY not in there.splitlines():
        raise ConfigError("card", str(out), f"its {CARD} is not a card of td3-brax and is not overwritten")


def write(
    out: Path, run: Run, which: str, config: Config, policy: Policy, score: Score, license: str, model: bytes
) -> list[str]:
    """Write the folder; return the names of its files. A card of an earlier export is replaced.

    Args:
        model: the policy as an ONNX model; empty if there is none.
    """
    config, file = public_config(config), f"policy_{which}.npz"
    curve = Path(run.name) / "curve.png"
    extra = {"policy.onnx": model} if model else {}
    extra |= {"curve.png": curve.read_bytes()} if curve.is_file() else {}
    text = _text(config, policy, which, score, license, list(extra), run.about)
    out.mkdir(parents=True, exist_ok=True)
    for old in ("policy.onnx", "curve.png", *(f"policy_{name}.npz" for name in ("best", "last", "early"))):
        if old not in extra and old != file:
            (out / old).unlink(missing_ok=True)
    save_policy(policy, out / file)
    write_config(out, config)
    for name, content in extra.items():
        write_atomically(out / name, content)
    write_atomically(out / CARD, text.encode())
    return [CARD, file, "config.json", *extra]


def _text(
    config: Config,
    policy: Policy,
    which: str,
    score: Score,
    license: str,
    extra: Sequence[str],
    about: Sequence[Mapping[str, Any]],
) -> str:
    """Return the card's text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    data = header(policy, score, license, ["onnx"] if "policy.onnx" in extra else [])
    values = score.mean, score.std, score.low, score.high
    which_option = [] if which == "best" else [f"--which={which}"]
    module = config.env.partition(":")[0] if USER_CODE.fullmatch(config.env) else ""
    return environment.get_template(TEMPLATE).render(
        header=yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000),
        env=config.env,
        file=f"policy_{which}.npz",
        extra=extra,
        license=license,
        module=module,
        gymnasium=config.env in GYMNASIUM_TASKS,
        env_steps=policy.meta.get("env_steps"),
        score=spread(score.mean, score.std, "±"),
        low=number(score.low, values),
        high=number(score.high, values),
        episodes=counted(score.episodes, "episode"),
        obs_size=len(policy.obs_mean),
        action_size=len(policy.action_low),
        normalized=math.isfinite(policy.obs_clip),
        time_limit=config.time_limit,
        versions=about[-1].get("versions", {}) if about else {},
        training=" \\\n    ".join(training_command(config)),
        commands=[command(name, ".", *which_option) for name in ("eval", "render", "play")],
    )
