"""Films and the viewer's page: that they show the episodes that were played."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from said import names

from td3_brax.algorithm.evaluate import greedy_returns
from td3_brax.commands.render import run, viewer
from td3_brax.commands.render.episodes import Episode, play
from td3_brax.commands.render.scene import make_scene, poses, rotation, shown_steps
from td3_brax.config import Config
from td3_brax.envs.registry import make_task
from td3_brax.policy import Policy, save_policy
from td3_brax.runs.files import write_config

POLE = Config(env="InvertedPendulum-v5", hidden_sizes=(8,), time_limit=60, normalize_obs=True)


def policy(config: Config, seed: int = 0) -> Policy:
    """One that does something."""
    task = make_task(config)
    rng = np.random.default_rng(seed)
    sizes = [task.obs_size, *config.hidden_sizes, task.action_size]
    return Policy(
        env=config.env,
        weights=tuple(rng.normal(size=pair).astype(np.float32) for pair in itertools.pairwise(sizes)),
        biases=tuple(rng.normal(size=size).astype(np.float32) for size in sizes[1:]),
        obs_mean=np.zeros(task.obs_size, np.float32),
        obs_deviation=np.ones(task.obs_size, np.float32),
        obs_clip=10.0,
        action_low=task.action_low,
        action_high=task.action_high,
        meta={"env_steps": 12_345},
    )


@pytest.mark.parametrize(
    "config",
    [
        POLE,
        pytest.param(Config(env="ant", backend="spring", hidden_sizes=(8,)), marks=pytest.mark.slow),
        Config(env="InvertedPendulum-v4", hidden_sizes=(8,)),
    ],
    ids=lambda config: config.env,
)
def test_what_is_shown_is_what_evaluation_plays(config: Config) -> None:
    config = dataclasses.replace(config, time_limit=20)
    trained = policy(config)
    task, (first, second, before) = play(config, [trained, trained, None], ["a", "b", "c"], 1e9, 5)
    keys = jnp.stack([jax.random.key(5), jax.random.key(6)])
    scores = greedy_returns(task, lambda obs: trained.forward(obs, jnp), keys, 20)
    for episode, total, length in zip((first, second), scores.returns, scores.lengths, strict=True):
        assert len(episode.rewards) == len(episode.qpos) == length
        # Another program, and contacts amplify rounding.
        np.testing.assert_allclose(episode.rewards.sum(), total, rtol=1e-2)
    assert not np.array_equal(first.qpos[0], second.qpos[0])
    # The same start, another policy.
    assert not np.array_equal(first.qpos[0], before.qpos[0])
    np.testing.assert_allclose(first.qpos[0], before.qpos[0], atol=0.5)
    assert first.qpos.shape[1] == task.model.nq


@pytest.mark.slow
def test_positions_are_the_observations_own() -> None:
    """Ant observes its positions but for x and y."""
    for config in (Config(env="ant", backend="mjx"), Config(env="Ant-v5")):
        task = make_task(config)
        state, obs = jax.jit(task.reset)(jax.random.key(0))
        out, qpos = jax.jit(task.shown)(state, jnp.full(8, 0.3))
        np.testing.assert_allclose(out.obs[:13], qpos[2:], atol=1e-6)
        assert not np.allclose(out.obs[:13], obs[:13])


@pytest.mark.parametrize(
    ("env", "flat", "above", "ground"),
    [
        ("Ant-v5", False, False, 0.0),
        ("HalfCheetah-v5", True, False, 0.0),
        ("Reacher-v5", False, True, 0.0),
        ("InvertedDoublePendulum-v5", True, False, 0.0),
    ],
)
def test_each_task_is_seen_from_its_side(env: str, flat: bool, above: bool, ground: float | None) -> None:
    model = make_task(Config(env=env)).model
    scene = make_scene(model)
    assert (scene.flat, scene.above) == (flat, above)
    assert scene.shapes
    assert 0.1 < scene.size < 5
    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0 + 0.1
    mujoco.mj_forward(model, data)
    shown = poses(model, scene, data.qpos[None])
    for i, shape in enumerate(scene.shapes):
        np.testing.assert_allclose(shown.positions[0, i], data.geom_xpos[shape.geom], atol=1e-9)
        np.testing.assert_allclose(shown.rotations[0, i].ravel(), data.geom_xmat[shape.geom], atol=1e-9)


ROBOT = """
<mujoco>
  <asset>
    <mesh name="wedge" vertex="0 0 0  .5 0 0  0 .3 0  0 0 .9" face="0 2 1 0 1 3 1 2 3 0 3 2"/>
    <hfield name="hills" nrow="3" ncol="4" size="2 1.5 .4 .1" elevation="0 1 0 1 1 0 1 0 0 1 0 1"/>
  </asset>
  <worldbody>
    <geom type="plane" size="2 2 .1"/>
    <body pos="0 0 1">
      <joint type="hinge" axis="0 1 0"/>
      <inertial pos=".2 0 0" mass="1" diaginertia=".001 .02 .02"/>
      FIRST
      <body pos=".4 0 0">
        <joint type="hinge" axis="0 1 0"/>
        <inertial pos=".2 0 0" mass="1" diaginertia=".001 .02 .02"/>
        SECOND
      </body>
    </body>
  </worldbody>
</mujoco>
"""
MESH, ROD = '<geom type="mesh" mesh="wedge"/>', '<geom type="capsule" fromto="0 0 0 .4 0 0" size=".06"/>'
HIDDEN = ROD.replace("<geom", '<geom group="3"')
ROBOTS = {
    "of meshes": (MESH, MESH, ["surface", "surface"]),
    "of meshes and others": (ROD, MESH, ["capsule", "surface"]),
    "hidden": (HIDDEN, HIDDEN, ["capsule", "capsule"]),
    "partly hidden": (ROD, HIDDEN, ["capsule"]),
    "of nothing": ("", "", ["box", "box"]),
    "on hills": (ROD, '<geom type="hfield" hfield="hills"/>', ["capsule", "surface"]),
}
DRAW = """
import sys
from td3_brax.commands.render import run
import os
os.environ["MUJOCO_GL"] = run.drawing_backend()
import dataclasses, mujoco, numpy as np
from td3_brax.commands.render import film
from td3_brax.commands.render.scene import make_scene, poses
for text in sys.argv[1:]:
    model = mujoco.MjModel.from_xml_string(text)
    scene = make_scene(model)
    at = poses(model, scene, model.qpos0[None])
    seen = []
    for some in (scene, dataclasses.replace(scene, shapes=())):
        stage = film.Stage(some)
        seen.append(stage.picture(at, 0, at.center[0]).astype(int))
        stage.close()
    print((np.abs(seen[0] - seen[1]).max(axis=2) > 20).mean())
"""


def robot(name: str) -> mujoco.MjModel:
    first, second, _ = ROBOTS[name]
    return mujoco.MjModel.from_xml_string(ROBOT.replace("FIRST", first).replace("SECOND", second))


@pytest.mark.parametrize("name", ROBOTS)
def test_any_robot_has_a_page(name: str, tmp_path: Path) -> None:
    model = robot(name)
    scene = make_scene(model)
    kinds = [shape.kind for shape in scene.shapes]
    assert kinds == ROBOTS[name][2]
    viewer.write(model, scene, [Episode("", model.qpos0[None], np.ones(1))], 0.05, tmp_path / "v.html")
    data = json.loads(_data(tmp_path / "v.html"))
    for shape in data["shapes"]:
        if shape["kind"] == "surface":
            own = data["surfaces"][shape["surface"]]
            faces = np.frombuffer(base64.b64decode(own["faces"]), "<u4")
            assert faces.max() < len(unpacked(own["vertices"], -1, 3))
    (episode,) = data["episodes"]
    assert np.isfinite(unpacked(episode["poses"], 1, len(kinds), 7)).all()
    assert np.isfinite(scene.size)


def test_a_film_shows_any_robot() -> None:
    if not run.drawing_backend():
        pytest.skip("neither EGL nor OSMesa is there to draw with")
    texts = [ROBOT.replace("FIRST", first).replace("SECOND", second) for first, second, _ in ROBOTS.values()]
    done = subprocess.run([sys.executable, "-c", DRAW, *texts], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shares = [float(line) for line in done.stdout.split()]
    assert len(shares) == len(ROBOTS)
    assert min(shares) > 0.005


@pytest.mark.parametrize("name", ["of meshes", "on hills"])
def test_a_films_surfaces_are_where_the_robots_are(name: str) -> None:
    """MuJoCo's compiler moves the vertices of a mesh."""
    from td3_brax.commands.render import film

    scene = make_scene(robot(name))
    staged = film.make_stage(scene)
    for i, own in enumerate(scene.surfaces):
        first = staged.mesh_vertadr[i]
        vertices = staged.mesh_vert[first : first + staged.mesh_vertnum[i]]
        moved = vertices @ rotation(staged.mesh_quat[i]).T + staged.mesh_pos[i]
        np.testing.assert_allclose(moved, own.vertices, atol=1e-6)


def test_speed_is_said_of_what_travels() -> None:
    """Metres per second, where a robot as a whole goes along x."""
    from td3_brax.commands.render import film

    names = {"Ant-v5": True, "HalfCheetah-v5": True, "InvertedPendulum-v5": True, "Reacher-v5": False}
    for env, travels in names.items():
        assert make_scene(make_task(Config(env=env)).model).travels == travels
    assert not make_scene(robot("hidden")).travels
    steps = np.array([0, 2, 4, 5])
    assert film.mean_speed(3.0 * steps, steps, 3, 0.5) == pytest.approx(6)
    assert film.mean_speed(3.0 * steps, steps, 0, 0.5) == 0


def test_only_what_ended_is_called_so() -> None:
    """Neither what --seconds cut, nor a step between two pictures."""
    trained = policy(POLE)
    for limit, seconds, ended in ((60, 0.08, False), (2, 9, True), (60, 9, True)):
        config = dataclasses.replace(POLE, time_limit=limit)
        (episode,) = play(config, [trained], [""], seconds, 0)[1]
        assert episode.ended == ended
    assert list(shown_steps(6, 2)) == [0, 2, 4, 5]
    assert list(shown_steps(5, 2)) == [0, 2, 4]
    assert list(shown_steps(1, 2)) == [0]


class Script(html.parser.HTMLParser):
    """The page's data, and whatever it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.data, self.loads = False, "", []  # type: tuple[bool, str, list[str]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = ("id", "data") in attrs
        self.loads += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        self.data += data * self.inside


def unpacked(text: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


def test_the_page_holds_the_episode(tmp_path: Path) -> None:
    model = make_task(Config(env="Ant-v5")).model
    scene = make_scene(model)
    rng = np.random.default_rng(0)
    qpos = np.tile(model.qpos0, (9, 1)) + rng.normal(size=(9, model.nq)) * 0.2
    label = "</script><b>&"
    viewer.write(model, scene, [Episode(label, qpos, np.arange(9.0))], 0.05, tmp_path / "v.html")
    page = Script()
    text = (tmp_path / "v.html").read_text()
    page.feed(text)
    assert page.loads == []
    assert "http" not in text.replace("http-equiv", "")
    assert "@DATA@" not in text
    assert "@TITLE@" not in text
    data = json.loads(page.data)
    (episode,) = data["episodes"]
    assert episode["label"] == label
    assert data["dt"] == 0.05
    np.testing.assert_array_equal(unpacked(episode["earned"], 9), np.cumsum(np.arange(9)))
    shown, expected = unpacked(episode["poses"], 9, len(scene.shapes), 7), poses(model, scene, qpos)
    np.testing.assert_allclose(shown[..., :3], expected.positions, atol=1e-5)
    for frame in range(9):
        for i in range(len(scene.shapes)):
            turned = np.empty(9)
            mujoco.mju_quat2Mat(turned, shown[frame, i, 3:].astype(float))
            np.testing.assert_allclose(turned, expected.rotations[frame, i].ravel(), atol=1e-5)


@pytest.fixture
def pole(tmp_path: Path) -> Path:
    """A run's folder with two policies."""
    write_config(tmp_path, POLE)
    trained = policy(POLE)
    save_policy(trained, tmp_path / "policy_best.npz")
    early = dataclasses.replace(policy(POLE, 1), meta={"env_steps": 99})
    save_policy(early, tmp_path / "policy_early.npz")
    return tmp_path


def rendered(*argv: str, **env: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "td3_brax", "render", *argv],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_film_or_one_line_that_says_what_is_missing(pole: Path) -> None:
    drawn = run.drawing_backend()
    done = rendered(str(pole), "--seconds=1")
    if not drawn:
        assert done.returncode == 2
        assert names(done.stderr, ["EGL", "OSMesa", "apt-get", "--html"])
        assert done.stderr.count("\n") == 1
        return
    assert done.returncode == 0, done.stderr
    assert f"drawn with {drawn.upper()}" in done.stdout
    import imageio.v3 as imageio

    frames = imageio.imread(pole / "film.mp4", plugin="FFMPEG")
    assert frames.shape[1:] == (360, 3 * 480, 3)
    assert len(frames) >= 3
    tiles = frames[0].reshape(360, 3, 480, 3)
    for i in range(3):
        assert tiles[100:300, i, 120:360].std() > 10  # something is in the middle of each
    assert imageio.imread(pole / "film.gif").shape[0] > 0


def test_without_graphics_there_is_a_page_still(pole: Path) -> None:
    done = rendered(str(pole), "--html", "--seconds=1", MUJOCO_GL="disable")
    assert done.returncode == 0, done.stderr
    labels = [e["label"] for e in json.loads(_data(pole / "viewer.html"))["episodes"]]
    assert labels == ["before training", "after 99 steps", "after 12,345 steps"]
    done = rendered(str(pole), "--html", "--episodes=2", "--seconds=1", f"--out={pole / 'two.html'}")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(_data(pole / "two.html"))["episodes"]) == 2


def _data(path: Path) -> str:
    page = Script()
    page.feed(path.read_text())
    return page.data


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--out=film.avi"], ["--out=film.avi", ".mp4"]),
        (["--html", "--out=film.mp4"], ["--out=film.mp4", ".html"]),
        (["--seconds=0"], ["--seconds", "0", "0"]),
        (["--which=worst"], ["--which", "best", "last"]),
        (["--episodes=x"], ["--episodes", "x"]),
    ],
)
def test_wrong_options(
    argv: list[str], says: list[str], pole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run.main([str(pole), *argv])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    errors = capsys.readouterr().err
    assert names(errors, says), errors
    assert errors.count("\n") == 1


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([str(tmp_path)]) == 2
    assert "this folder contains no run (no config.json)" in capsys.readouterr().err
