"""Command line and config files, derived from the fields of :class:`td3_brax.config.Config`.

Values are read as YAML, which includes JSON, and converted to the type of the field. So a shell, a sweep
agent and a file can all write ``[256, 256]``, ``1e6`` for an integer, ``True`` or ``true``.
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import yaml

from td3_brax.config import FIELDS, Config
from td3_brax.names import PRESETS
from td3_brax.option import ConfigError, allowed_names, nearest, show
from td3_brax.presets import MIN_WARMUP, PLATFORMS, WARMUP_PER_ENV, resolve

TYPES = {"bool": "BOOL", "float": "FLOAT", "int": "INT", "str": "TEXT", "tuple[int, ...]": "[INT,...]"}

QUICK_DIFFERS = (
    " Those of quick differ between CPU and GPU; its random steps are "
    f"{WARMUP_PER_ENV} of each environment, but at most an eighth of the run, and at least {MIN_WARMUP}."
)


def coerce(name: str, value: Any) -> Any:
    """Convert ``value`` to the type of the option ``name``.

    Args:
        value: a text, an object that YAML has read from one, or numbers and arrays of Python, NumPy or JAX.
    Raises:
        ConfigError: the value does not fit the type.
    """
    value = _plain(value)
    kind, words = str(FIELDS[name].type), FIELDS[name].metadata["words"]
    if isinstance(value, str) and value.strip() in words:
        return words[value.strip()]
    if FIELDS[name].metadata["mapping"]:
        made = _read(value) if isinstance(value, str) else value
        if made and not isinstance(made, dict):
            raise ConfigError(name, value, 'must be a mapping, such as {"ctrl_cost_weight": 0.1}')
        return json.dumps(made, sort_keys=True) if made else ""
    if kind == "str":
        if value is None or isinstance(value, list | tuple | dict):
            raise ConfigError(name, value, "must be text")
        return str(value)
    if isinstance(value, str):
        value = _read(value)
    if kind == "bool":
        if isinstance(value, bool):
            return value
        raise ConfigError(name, value, "must be true or false")
    if kind == "tuple[int, ...]":
        items = value if isinstance(value, list | tuple) else [value]
        if all(_is_whole(item) for item in items):
            return tuple(int(item) for item in items)
        raise ConfigError(name, value, "must be a list of whole numbers, such as [256,256]")
    if kind == "int":
        if _is_whole(value):
            return int(value)
        raise ConfigError(name, value, "must be a whole number")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ConfigError(name, value, "must be a number")


def _plain(value: Any) -> Any:
    """Return ``value`` with the NumPy and JAX scalars and arrays in it as Python's numbers and lists."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _read(text: str) -> Any:
    """Parse a text as YAML or Python, numbers in the form of either; return it unchanged if it is neither."""
    for read in (float, ast.literal_eval, yaml.safe_load):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, yaml.YAMLError, MemoryError, RecursionError):
            continue
        if read is float and value.is_integer() and "e" not in text.lower() and "." not in text:
            return int(text)
        if isinstance(value, list | tuple):
            return [_read(item) if isinstance(item, str) else item for item in value]
        return value
    return text


def whole_number(text: str) -> int:
    """Parse an integer in any form that options accept, such as ``1e3``; for ``argparse``."""
    value = _read(text)
    if not _is_whole(value):
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}")
    return int(value)


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def load_config(path: str) -> dict[str, Any]:
    """Read options from a YAML or JSON file, such as a run's ``config.json``.

    Raises:
        ConfigError: the file can't be read, is not a mapping, or holds an unknown option.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        try:
            loaded = json.loads(text)  # YAML misreads JSON's escapes of rare characters
        except ValueError:
            loaded = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config", path, f"can't be read ({error})") from None
    except yaml.YAMLError:
        raise ConfigError("config", path, "is neither YAML nor JSON") from None
    if not isinstance(loaded, dict):
        raise ConfigError("config", path, "must hold options as `name: value`")
    for name in loaded:
        if name not in FIELDS:
            raise ConfigError("config", path, f"unknown option {name}{nearest(str(name), FIELDS)}")
    return {name: coerce(name, value) for name, value in loaded.items()}


class Formatter(argparse.HelpFormatter):
    """argparse's formatter, except that it does not break names at hyphens."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """argparse's parser, except that an error is one line, and options may have ``_`` or ``-``.

    Args:
        description: it may begin like the docstring of a command's module: ````td3-brax COMMAND``: ...``.
    """

    def __init__(self, *, description: str | None, **rest: Any) -> None:
        description = description or ""
        text = description.partition("``: ")[2] or description
        super().__init__(description=text[0].upper() + text[1:], allow_abbrev=False, **rest)

    def error(self, message: str) -> NoReturn:
        """Print the error as one line and exit with code 2."""
        raise SystemExit(fail(message))

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse ``argv``; the error for an unknown option names the nearest known one."""
        names = {flag[2:] for action in self._actions for flag in action.option_strings if flag[:2] == "--"}
        tokens = []
        for token in argv:
            if token.startswith("--_wandb"):  # a W&B agent adds it to a run that it starts again
                continue
            if token.startswith("--"):
                flag, equals, value = token[2:].partition("=")
                flag = flag.replace("-", "_")
                if flag not in names:
                    self.error(f"unknown option --{flag}{nearest(flag, names)}; see --help")
                token = f"--{flag}{equals}{value}"
            tokens.append(token)
        return self.parse_args(tokens)


def fail(message: object) -> int:
    """Print ``message`` as one line on standard error; return the exit code for bad input."""
    print(f"td3-brax: {message}", file=sys.stderr)
    return 2


def train_parser(
    command: str = "train",
    description: str = "Train TD3 entirely on the device.",
    excluded: Sequence[str] = (),
    presets: Sequence[str] = PRESETS,
    help_texts: Mapping[str, str] = MappingProxyType({}),
) -> Parser:
    """Return a parser for ``command`` with the options of ``td3-brax train``, except ``--resume``.

    Args:
        command: name of the command.
        description: first paragraph of the help.
        excluded: options that the command does not have.
        presets: presets that the command accepts, its default first.
        help_texts: help texts of options whose meaning or default is different for this command.
    """
    parser = Parser(
        prog=f"td3-brax {command}",
        description=description,
        epilog=f"Defaults are the preset's ({presets[0]} by default) for {FIELDS['env'].default}; some "
        "differ by task." + QUICK_DIFFERS * ("quick" in presets),
        formatter_class=lambda prog: Formatter(prog, max_help_position=30, width=100),
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="read options from a YAML or JSON file; the command line takes precedence",
    )
    groups: dict[str, Any] = {}
    for name, field in FIELDS.items():
        if name in excluded:
            continue
        group = field.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        choices = presets if name == "preset" else allowed_names(field)
        listed = f" [{', '.join(choices)}]" if choices else ""
        text = f"{field.metadata['help']}{listed} (default: {default_text(name, presets)})"
        text = help_texts.get(name, text).replace("%", "%%")
        bare = {"nargs": "?", "const": "true"} if field.type == "bool" else {}
        groups[group].add_argument(f"--{name}", metavar=TYPES[str(field.type)], help=text, **bare)
    return parser


@functools.cache
def _defaults(preset: str, platform: str) -> Config:
    return resolve({"preset": preset}, platform)


def default_text(name: str, presets: Sequence[str] = PRESETS) -> str:
    """Return the help's text for an option's default: the first preset's value, and others that differ."""
    if name == "preset":
        return presets[0]

    def preset_text(preset: str) -> str:
        """Return the value that a preset has on all platforms, or its value on each."""
        shown = {
            platform: show(getattr(_defaults(preset, platform), name)) or "none" for platform in PLATFORMS
        }
        if shown["amx"] == shown["cpu"]:
            del shown["amx"]
        each = ", ".join(f"{value} on {PLATFORMS[platform]}" for platform, value in shown.items())
        return each if len(set(shown.values())) > 1 else shown["cpu"]

    values = {preset: preset_text(preset) for preset in presets}
    parts = [values[presets[0]]]
    for value in dict.fromkeys(values.values()):
        sharing = [preset for preset in presets if values[preset] == value]
        if value != parts[0]:
            parts.append(f"{', '.join(sharing)}: {value}")
    return "; ".join(parts)


def parse_options(parser: Parser, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse ``argv``; return a run's options by name, and the command's other options.

    Options on the command line override those in the file of ``--config``.

    Raises:
        ConfigError: a value that does not fit its option.
        SystemExit: ``--help``, or an unknown option (code 2).
    """
    given = {name: value for name, value in vars(parser.parse(argv)).items() if value is not None}
    path = given.pop("config", None)
    explicit = load_config(path) if path else {}
    explicit |= {name: coerce(name, value) for name, value in given.items() if name in FIELDS}
    return explicit, {name: value for name, value in given.items() if name not in FIELDS}


def parse_train(argv: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Parse the arguments of ``td3-brax train``; return its options and ``--resume``.

    Raises: see :func:`parse_options`.
    """
    parser = train_parser()
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="resume the run in this folder (auto: resume the run in --out, or start it if there is none)",
    )
    explicit, others = parse_options(parser, argv)
    return explicit, others.get("resume")


def guarded(job: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Run a command's ``job`` and return its exit code; bad input gives one line and exit code 2."""
    os.environ.pop("JAX_ENABLE_X64", None)  # our programs are 32-bit; JAX has not been imported yet
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that it can't encode
            stream.reconfigure(errors="backslashreplace")
    try:
        return job(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        return fail(error)
