"""``td3-brax play RUN``: play a policy in MuJoCo's own viewer, in real time."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from td3_brax.cli import fail, guarded
from td3_brax.commands.eval import load, run_parser
from td3_brax.config import Config
from td3_brax.policy import Policy, PolicyError
from td3_brax.runs.device import prepare_jax
from td3_brax.runs.formatting import command, number

PROBE = """
import sys, glfw
if not glfw.init():
    sys.exit(1)
glfw.window_hint(glfw.VISIBLE, glfw.FALSE)
sys.exit(not glfw.create_window(16, 16, "", None, None))
"""
"""A program that fails if no window can be opened. MuJoCo's viewer itself would then wait forever."""


def missing_screen() -> str:
    """Return why no window can be opened; an empty text if one can."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no screen: neither DISPLAY nor WAYLAND_DISPLAY is set"
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    said = re.search(r"GLFWError: \(\d+\) b?['\"](.*)['\"]", done.stderr)
    return f"no window can be opened on the screen{f' ({said[1]})' if said else ''}"


class ViewerError(RuntimeError):
    """MuJoCo's viewer does not start."""


def open_viewer(model: Any, data: Any) -> Any:
    """Open MuJoCo's viewer, with a camera that follows the robot.

    Raises:
        ViewerError: the viewer does not start, for example on macOS without ``mjpython``.
    """
    import mujoco
    import mujoco.viewer

    from td3_brax.commands.render.scene import make_scene

    try:
        viewer = mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False)
    except RuntimeError as error:
        raise ViewerError(f"MuJoCo's viewer does not start ({' '.join(str(error).split())})") from None
    scene = make_scene(model)
    with viewer.lock():
        viewer.cam.type, viewer.cam.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, scene.root
        viewer.cam.azimuth, viewer.cam.elevation = scene.azimuth, scene.elevation
        viewer.cam.distance = scene.distance
    return viewer


def show(run: str, config: Config, policy: Policy, episodes: int, seed: int) -> None:
    """Play episodes in a window, until it is closed or ``episodes`` have ended (0: without end).

    Raises:
        PolicyError: the policy's sizes do not fit the task, or its physics break at the first step.
        ViewerError: MuJoCo's viewer does not start.
    """
    import jax
    import mujoco
    import numpy as np

    from td3_brax.envs.registry import make_task
    from td3_brax.envs.vector import all_finite

    task = make_task(config)
    if (task.obs_size,) != policy.obs_mean.shape or (task.action_size,) != policy.action_low.shape:
        raise PolicyError(f"{run}: the policy's observation and action sizes do not fit {config.env}")

    @jax.jit
    def step(state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        out, qpos = jax.vmap(task.shown)(state, action)
        return out, qpos, all_finite((out.state, out.obs, out.reward))

    reset = jax.jit(jax.vmap(task.reset))  # a batch with one episode
    state, obs = reset(jax.random.key(seed)[None])
    jax.block_until_ready(step(state, policy(obs)))  # compile before there is a window
    model, data = task.model, mujoco.MjData(task.model)
    with open_viewer(model, data) as viewer:
        due = time.perf_counter()
        for episode in range(episodes) if episodes else itertools.count():
            state, obs = reset(jax.random.key(seed + episode)[None])
            total, length, ending = 0.0, 0, ""
            while not ending:
                out, qpos, finite = step(state, policy(obs))
                if not finite:
                    ending = ", broken off"
                    break
                state, obs, total, length = out.state, out.obs, total + float(out.reward[0]), length + 1
                with viewer.lock():
                    data.qpos[:], data.time = np.asarray(qpos[0]), length * task.dt
                    mujoco.mj_forward(model, data)
                viewer.sync()
                due += task.dt
                if (early := due - time.perf_counter()) > 0:
                    time.sleep(early)
                else:
                    due -= early  # a slow step is not made up for
                if out.terminated[0] or length == config.time_limit:
                    ending = " "
                elif not viewer.is_running():
                    ending = ", not finished"
            if not length:
                raise PolicyError(f"{run}: the physics of {config.env} breaks at the first step")
            line = f"episode {episode + 1}: return {number(total)}, length {length:,}{ending}"
            print(line.rstrip(), flush=True)
            if not viewer.is_running():
                return


def job(argv: Sequence[str]) -> int:
    """Open the window and play; return the exit code."""
    args = run_parser("play", __doc__, 0, "episodes to play (default: until you close the window)").parse(
        argv
    )
    instead = command("render", args.run, "--html")
    try:
        config, policy = load(args.run, args.which)
        if why := missing_screen():
            return fail(f"{why}; make a page that any browser shows instead: {instead}")
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # quicker than a GPU for a single environment
        prepare_jax(config.deterministic, 1)
        with contextlib.suppress(KeyboardInterrupt):
            show(args.run, config, policy, args.episodes, args.seed)
    except PolicyError as error:
        return fail(error)
    except ViewerError as error:
        return fail(f"{error}; on macOS start it as mjpython -m td3_brax play; or make a page: {instead}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
