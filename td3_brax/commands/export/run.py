"""``td3-brax export RUN``: write a policy as an ONNX model, or as a folder with a model card."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from td3_brax.cli import fail, guarded
from td3_brax.commands.eval import deviation, load, run_parser, score_on_device
from td3_brax.commands.export import card
from td3_brax.commands.export.score import make_score, read_run, recorded_score
from td3_brax.commands.report.runs import RunsError
from td3_brax.option import ConfigError
from td3_brax.policy import Policy, PolicyError, load_policy
from td3_brax.runs.files import write_atomically
from td3_brax.runs.formatting import command

MISSING = "needs onnx and onnxruntime: pip install 'td3-brax[onnx]'"


def convert(policy: Policy) -> tuple[bytes, str]:
    """Return the policy as an ONNX model, and a line about it.

    Raises:
        ImportError: the extra ``onnx`` is not installed.
        PolicyError: onnxruntime computes other actions than the policy.
    """
    from td3_brax.commands.export.onnx_model import OPSET, check, make_model

    model = make_model(policy).SerializeToString()
    differs = check(policy, model)
    about = (
        f"{len(model) / 1000:,.0f} kB, opset {OPSET}; in onnxruntime it differs from the NumPy policy by at"
    )
    return model, f"{about} most {differs:.1e} of the action range"


def license_name(text: str) -> str:
    """Parse the identifier of a license."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(
            f"must be an identifier of the Hugging Face Hub, such as apache-2.0, mit or other, not {text}"
        )
    return text


def job(argv: Sequence[str]) -> int:
    """Write the model or the folder; return the exit code."""
    parser = run_parser(
        "export",
        __doc__,
        0,
        "play this many episodes now for the card's return (default: take the return from the run's files)",
        "folder of the run; for --onnx also a policy_*.npz",
    )
    parser.add_argument("--onnx", metavar="FILE", help="ONNX model to write, such as policy.onnx")
    parser.add_argument(
        "--card",
        metavar="DIR",
        help="folder to write for the Hugging Face Hub: model card, policy, options, and ONNX model",
    )
    parser.add_argument(
        "--license",
        metavar="NAME",
        type=license_name,
        default="unknown",
        help="license under which you publish the policy, for the card (default: unknown)",
    )
    args = parser.parse(argv)
    if not args.onnx and not args.card:
        return fail("nothing to write: give --onnx=FILE, --card=DIR, or both")
    if args.onnx and Path(args.onnx).suffix != ".onnx":
        return fail(f"--onnx={args.onnx}: must end with .onnx")
    try:
        return _export(args)
    except (PolicyError, RunsError) as error:
        return fail(error)


def _export(args: argparse.Namespace) -> int:
    """Write what ``args`` ask for.

    Raises: see :func:`td3_brax.commands.eval.load` and :mod:`td3_brax.commands.export.score`.
    """
    if args.card:
        card.check_folder(Path(args.card))
        config, trained = load(args.run, args.which)
        read = read_run(args.run)
        if args.episodes:
            returns, _ = score_on_device(args.run, config, trained, args.episodes, args.seed)
            score = make_score(float(returns.mean()), deviation(returns), len(returns))
        else:
            score = recorded_score(read, args.which, trained)
    else:
        trained = load_policy(args.run, args.which)
    policy = card.public_policy(trained)
    model, about = b"", ""
    try:
        model, about = convert(policy)
    except ImportError as error:
        if args.onnx:
            raise ConfigError("onnx", args.onnx, f"{MISSING} ({error})") from None
    if args.onnx:
        try:
            write_atomically(Path(args.onnx), model)
        except OSError as error:
            raise ConfigError("onnx", args.onnx, f"can't be written ({error.strerror})") from None
        print(f"{args.onnx}: {about}")
    if args.card:
        try:
            files = card.write(Path(args.card), read, args.which, config, policy, score, args.license, model)
        except OSError as error:
            raise ConfigError("card", args.card, f"can't be written ({error.strerror})") from None
        print(f"{args.card}: {', '.join(files)}")
        if not model:
            print(f"note: there is no policy.onnx in it, which {MISSING}")
        if args.license == "unknown":
            renewed = command("export", args.run, "--card", args.card, "--license")
            print(f"note: the card names no license; when you publish it, choose one: {renewed} apache-2.0")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
