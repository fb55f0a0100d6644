"""``td3-brax render RUN``: film a run's policy or, with --html, make an interactive 3D page of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from td3_brax.cli import fail, guarded
from td3_brax.commands.eval import load, positive, run_parser
from td3_brax.config import Config
from td3_brax.policy import Policy, PolicyError, load_policy
from td3_brax.runs.device import prepare_jax

BACKENDS = ("egl", "osmesa")
"""MuJoCo's drawing backends that need no screen."""
OFF = ("disable", "disabled", "off", "false", "0")
"""Values of ``MUJOCO_GL`` with which MuJoCo draws nothing."""
PROBE = "import mujoco; context = mujoco.GLContext(16, 16); context.make_current(); context.free()"
"""A program that fails if a drawing backend does not work."""


def drawing_backend() -> str:
    """Return a backend with which MuJoCo can draw without a screen; an empty text if there is none.

    If the user has set ``MUJOCO_GL``, it is used without a check.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return "" if chosen.lower() in OFF else chosen
    for name in BACKENDS:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env={**os.environ, "MUJOCO_GL": name}, capture_output=True
        )
        if done.returncode == 0:
            return name
    return ""


def choose_policies(
    run: str, config: Config, which: str, count: int
) -> tuple[list[Policy | None], list[str]]:
    """Choose the policies to show, and their labels.

    Args:
        count: show that many episodes of the policy ``which``; with 0, one episode each of the untrained
            policy (None in the returned list) unless the run began with trained networks, an early one if it
            was saved, and ``which``.

    Raises:
        PolicyError: a policy can't be read.
    """
    trained = load_policy(run, which)
    if count:
        return [trained] * count, [f"{config.env}, {_stage(trained)}"] * count
    policies: list[Policy | None] = [] if config.init_from else [None]
    labels = ["before training"] * len(policies)
    if (Path(run) / "policy_early.npz").exists():
        early = load_policy(run, "early")
        if early.meta.get("env_steps", 0) < trained.meta.get("env_steps", 0):
            policies, labels = [*policies, early], [*labels, _stage(early)]
    return [*policies, trained], [*labels, _stage(trained)]


def _stage(policy: Policy) -> str:
    """Describe how long a policy was trained."""
    return f"after {policy.meta['env_steps']:,} steps" if "env_steps" in policy.meta else "trained"


def job(argv: Sequence[str]) -> int:
    """Write the film or the page; return the exit code."""
    parser = run_parser(
        "render", __doc__, 0, "show this many episodes of the policy (default: one at each stage of training)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=20, help="simulated time of an episode, at most (default: 20)"
    )
    parser.add_argument("--html", action="store_true", help="write an interactive page instead of a film")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="file to write; a film also gets a GIF (default: film.mp4 or viewer.html in RUN)",
    )
    args = parser.parse(argv)
    out = Path(args.out or Path(args.run) / ("viewer.html" if args.html else "film.mp4"))
    suffix = ".html" if args.html else ".mp4"
    if out.suffix != suffix:
        return fail(f"--out={out}: must end with {suffix}")
    try:
        config, _ = load(args.run, args.which)
        policies, labels = choose_policies(args.run, config, args.which, args.episodes)
    except PolicyError as error:
        return fail(error)
    if not args.html:
        os.environ["MUJOCO_GL"] = backend = drawing_backend()
        if not backend:
            return fail(
                "a film needs EGL or OSMesa to draw, and neither works here; on Debian: apt-get install "
                "libosmesa6 (or libegl1 libgl1-mesa-dri), or use --html, which needs neither"
            )
    prepare_jax(config.deterministic, 1)
    from td3_brax.commands.render.episodes import play
    from td3_brax.commands.render.scene import make_scene

    task, episodes = play(config, policies, labels, args.seconds, args.seed)
    if any(not len(episode.rewards) for episode in episodes):
        return fail(
            f"{args.run}: the physics of {config.env} breaks at the first step, so there is nothing to show"
        )
    scene = make_scene(task.model)
    try:
        if args.html:
            from td3_brax.commands.render import viewer

            viewer.write(task.model, scene, episodes, task.dt, out)
            print(f"open {out} in a browser")
            return 0
        from td3_brax.commands.render import film

        gif = out.with_suffix(".gif")
        pictures, fps = film.frames(task.model, scene, episodes, task.dt)
        count = film.write(pictures, fps, out, gif)
    except OSError as error:
        return fail(f"--out={out}: can't be written ({error.strerror or error})")
    print(f"{out} and {gif.name}: {count} frames, drawn with {backend.upper()}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
