"""``td3-brax render RUN``: a film of a run's policy and, with --html, a page to look at it from all sides."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from td3_brax.cli import fail, guarded
from td3_brax.commands.eval import above_zero, load, run_parser
from td3_brax.config import Config
from td3_brax.policy import Policy, PolicyError, load_policy
from td3_brax.runs.device import prepare_jax

GRAPHICS = ("egl", "osmesa")
OFF = ("disable", "disabled", "off", "false", "0")
"""What MuJoCo takes for no graphics."""
PROBE = "import mujoco; context = mujoco.GLContext(16, 16); context.make_current(); context.free()"


def graphics() -> str:
    """What MuJoCo can draw with, without a screen; the user's own ``MUJOCO_GL`` is not questioned."""
    if own := os.environ.get("MUJOCO_GL"):
        return "" if own.lower() in OFF else own
    for name in GRAPHICS:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env={**os.environ, "MUJOCO_GL": name}, capture_output=True
        )
        if done.returncode == 0:
            return name
    return ""


def stages(run: str, config: Config, which: str, count: int) -> tuple[list[Policy | None], list[str]]:
    """Whom to show, and what to call them: the run's stages, or ``count`` episodes of one policy.

    None is the untrained policy.

    Raises:
        PolicyError: a policy can't be read.
    """
    trained = load_policy(run, which)
    if count:
        return [trained] * count, [f"{config.env}, {_after(trained)}"] * count
    shown: list[Policy | None] = [None]
    labels = ["before training"]
    if (Path(run) / "policy_early.npz").exists():
        early = load_policy(run, "early")
        if early.meta.get("env_steps", 0) < trained.meta.get("env_steps", 0):
            shown, labels = [*shown, early], [*labels, _after(early)]
    return [*shown, trained], [*labels, _after(trained)]


def _after(policy: Policy) -> str:
    return f"after {policy.meta['env_steps']:,} steps" if "env_steps" in policy.meta else "trained"


def job(argv: Sequence[str]) -> int:
    """Write the film, or the page; returns the exit code."""
    parser = run_parser("render", __doc__, 0, "episodes of the one policy side by side (default: its stages)")
    parser.add_argument("--seconds", type=above_zero, default=20, help="at most (default: 20)")
    parser.add_argument("--html", action="store_true", help="an interactive page, in place of the film")
    parser.add_argument(
        "--out", metavar="FILE", help="default: film.mp4 (and film.gif), or viewer.html, in RUN"
    )
    args = parser.parse(argv)
    out = Path(args.out or Path(args.run) / ("viewer.html" if args.html else "film.mp4"))
    suffix = ".html" if args.html else ".mp4"
    if out.suffix != suffix:
        return fail(f"--out={out}: must end with {suffix}")
    try:
        config, _ = load(args.run, args.which)
        shown, labels = stages(args.run, config, args.which, args.episodes)
    except PolicyError as error:
        return fail(error)
    if not args.html:
        os.environ["MUJOCO_GL"] = drawn = graphics()
        if not drawn:
            return fail(
                "neither EGL nor OSMesa is there to draw with; on Debian: apt-get install libosmesa6, or "
                "libegl1 and libgl1-mesa-dri; --html needs neither"
            )
    prepare_jax(config.deterministic, 1)
    from td3_brax.commands.render.episodes import play
    from td3_brax.commands.render.scene import look

    task, episodes = play(config, shown, labels, args.seconds, args.seed)
    if any(not len(episode.rewards) for episode in episodes):
        return fail(f"{args.run}: {config.env}'s physics break at the first step: there is nothing to show")
    scene = look(task.model)
    try:
        if args.html:
            from td3_brax.commands.render import viewer

            viewer.write(task.model, scene, episodes, task.dt, out)
            print(f"{out}: open it in a browser")
            return 0
        from td3_brax.commands.render import film

        gif = out.with_suffix(".gif")
        pictures, fps = film.frames(task.model, scene, episodes, task.dt)
        count = film.write(pictures, fps, out, gif)
    except OSError as error:
        return fail(f"--out={out}: can't be written ({error.strerror or error})")
    print(f"{out} and {gif.name}: {count} frames, drawn with {drawn.upper()}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
