"""What people read: numbers, commands, help, and a log that is not what it was."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from said import names

from td3_brax import train
from td3_brax.commands.reproduce import options
from td3_brax.commands.reproduce import run as reproduce
from td3_brax.config import FIELDS
from td3_brax.option import show
from td3_brax.presets import PLATFORMS, resolve
from td3_brax.runs import formatting, tracking


def test_returns_of_any_size_keep_their_digits(capsys: pytest.CaptureFixture[str]) -> None:
    display = tracking.Display(1000)
    report = {"env_steps": 250, "time/env_steps_per_s": 10.0, "wall_s": 25.0, "train/return_mean": None}
    scored = {"eval/return_mean": 0.01234, "eval/return_std": 0.0056, "eval/length_mean": 5.0}
    scored["eval/return_best"] = 0.01234
    display.show(report | scored)
    assert names(capsys.readouterr().out, ["0.0123", "0.0056"])
    values = {0.0: "0", 4.25: "4.25", 12.345: "12.3", 99.96: "100", 1234.6: "1,235", -0.5: "-0.500"}
    assert {value: formatting.number(value) for value in values} == values
    assert formatting.number(1e-9) == "1.00e-09"
    assert formatting.number(float("nan")) == "nan"
    assert formatting.spread(1000.0, 0.25) == "1,000 +- 0"
    assert formatting.spread(0.0, 0.25) == "0.000 +- 0.250"


def test_counts_and_commands() -> None:
    assert formatting.counted(1, "step") == "1 step"
    assert formatting.counted(2000, "step") == "2,000 steps"
    said = formatting.command("eval", Path("a folder") / "of mine")
    assert shlex.split(said) == ["td3-brax", "eval", "a folder/of mine"]


def test_a_value_is_shown_as_it_is() -> None:
    for value in (0.1, 1e-5, 1 / 3, 0.1234567, 1.0000001, float("inf")):
        assert float(show(value)) == value
    assert show(0.001) == "0.001"


PLACES: dict[str, tuple[Any, list[int], bool]] = {
    "as it was": (lambda lines: lines, [1, 2], False),
    "without what followed": (lambda lines: lines[:2], [1, 2], False),
    "gone": (lambda lines: [], [], True),
    "cut within the first line": (lambda lines: [lines[0][:5]], [], True),
    "cut within the second": (lambda lines: [lines[0], lines[1][:5]], [1], True),
    "edited": (lambda lines: [b'{"env_steps": 11111}\n', *lines], [11111], True),
}


@pytest.mark.parametrize("place", PLACES)
def test_lines_go_on_where_they_were_or_are_said_to_be_gone(place: str, tmp_path: Path) -> None:
    damage, left, told = PLACES[place]
    said: list[str] = []
    path = tmp_path / "metrics.jsonl"
    log = tracking.JsonLines(path, said.append)
    for step in (1, 2, 3):
        log.write({"env_steps": step})
    tail = log.tail  # the third line is part of it
    for step in (4, 5):
        log.write({"env_steps": step})
    log.close()
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    log = tracking.JsonLines(path, said.append)
    log.resume(*tail)
    log.write({"env_steps": 4})
    log.close()
    assert [json.loads(line)["env_steps"] for line in path.read_text().splitlines()] == [*left, 3, 4]
    assert len(said) == told
    assert all(names(line, [str(path), str(len(left))]) for line in said)


def defaults(main: Any, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What a command's help says of each option's default."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    found = {}
    for entry in re.findall(r"^  --.*?(?=^  --|^\S|\Z)", text, re.MULTILINE | re.DOTALL):
        said = re.search(r"\(default: (.*)\)$", " ".join(entry.split()))
        if said:
            found[entry.split()[0].removeprefix("--")] = said[1]
    return found


def test_help_gives_the_defaults_that_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    said = defaults(train.main, capsys)
    assert set(FIELDS) <= set(said)
    assert said["warmup_env_steps"].startswith("131072 on CPU, 524288 on GPU")
    for name in FIELDS:
        quick, *others = said[name].split("; ")
        for platform, title in PLATFORMS.items():
            value = show(getattr(resolve({}, platform), name)) or "none"
            assert quick == value or f"{value} on {title}" in quick.split(", ") or platform == "amx", name
        for preset in ("paper", "author", "our-ddpg"):
            value = show(getattr(resolve({"preset": preset}, "cpu"), name)) or "none"
            own = [
                text.partition(": ")[2] for text in others if preset in text.partition(": ")[0].split(", ")
            ]
            assert own in ([value], []), name
            assert own or value == quick or name == "preset", name


def test_help_of_reproduce_gives_the_defaults_that_are_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = defaults(reproduce.main, capsys)
    asked, rest = options.parse([])
    plan = reproduce.Plan(asked.preset, asked.steps, asked.quick, "cpu", rest)
    ant = next(part for part in reproduce.parts(asked, plan, tmp_path) if part.env == "Ant-v4")
    config = ant.jobs[0].config
    for name in set(FIELDS) & set(said) - {"preset", "out", "devices"}:
        assert said[name].split("; ")[0] == (show(getattr(config, name)) or "none"), name
    assert {name: said[name].split("; ")[0] for name in ("preset", "out", "devices")} == {
        "preset": asked.preset,
        "out": asked.out,
        "devices": "all",
    }
    assert said["steps"].startswith(str(asked.steps))
    assert said["seeds"].startswith(str(asked.seeds))
    assert not {"env", "seed", "backend", "total_env_steps", "checkpoint_replay"} & set(said)
