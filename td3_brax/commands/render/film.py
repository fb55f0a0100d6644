"""A film of episodes, by MuJoCo's renderer: robots in tiles side by side, each with a camera that follows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from td3_brax.commands.render.episodes import Episode
from td3_brax.commands.render.scene import Poses, Scene, poses, rotation, shown

FPS = 30
"""At most; a slower task sets its own."""
HIGH, WIDE = 360, 480
"""Of a tile, in pixels; both even, as video wants."""
GIF_FPS, GIF_SECONDS, GIF_HIGH = 15, 6.0, 240
STAGE = """
<mujoco>
  <statistic extent="{extent}"/>
  <visual>
    <global offwidth="{wide}" offheight="{high}"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.35 0.35 0.35" specular="0.1 0.1 0.1"/>
    <map shadowclip="3" shadowscale="0.5" znear="0.01" zfar="60"/>
    <quality shadowsize="4096"/>
  </visual>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="0.72 0.82 0.92" rgb2="0.96 0.97 0.98"
      width="256" height="256"/>
    <texture name="floor" type="2d" builtin="checker" rgb1="0.80 0.82 0.84" rgb2="0.72 0.75 0.78"
      width="512" height="512"/>
    <material name="floor" texture="floor" texrepeat="1 1" texuniform="true" specular="0" reflectance="0"/>
    {surfaces}
  </asset>
  <worldbody>{floor}</worldbody>
</mujoco>
"""
SUN = np.array([0.22, 0.33, -0.918])
"""Where its light goes."""
KINDS = {
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "surface": mujoco.mjtGeom.mjGEOM_MESH,
}


def stage(scene: Scene) -> mujoco.MjModel:
    """The ground of ``scene``, and its surfaces as meshes."""
    floor = ""
    if scene.ground is not None:
        floor = f'<geom type="plane" pos="0 0 {scene.ground}" size="0 0 1" material="floor"/>'
    surfaces = "".join(
        f'<mesh name="surface{i}" inertia="shell" vertex="{_listed(x.vertices)}" face="{_listed(x.faces)}"/>'
        for i, x in enumerate(scene.surfaces)
    )
    return mujoco.MjModel.from_xml_string(
        STAGE.format(wide=WIDE, high=HIGH, floor=floor, surfaces=surfaces, extent=scene.size)
    )


class Stage:
    """A ground, a sky and light of our own, so that every robot is seen alike. Close it after use."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.model = stage(scene)
        self._turned = [rotation(quaternion) for quaternion in self.model.mesh_quat]
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.renderer = mujoco.Renderer(self.model, HIGH, WIDE)
        self.camera = mujoco.MjvCamera()
        self.camera.azimuth, self.camera.elevation = scene.azimuth, scene.elevation
        self.camera.distance = (2.4 if scene.elevation < -15 else 3.0) * scene.size

    def picture(self, poses: Poses, frame: int, lookat: np.ndarray) -> np.ndarray:
        """[HIGH, WIDE, 3] of one frame."""
        self.camera.lookat = lookat
        self.renderer.update_scene(self.data, self.camera)
        drawn = self.renderer.scene
        self._light(drawn, lookat)
        for i, shape in enumerate(self.scene.shapes):
            at, turn = poses.positions[frame, i], poses.rotations[frame, i]
            if shape.surface >= 0:  # MuJoCo has moved its vertices to where its inertia is
                at = at + turn @ self.model.mesh_pos[shape.surface]
                turn = turn @ self._turned[shape.surface]
            geom = drawn.geoms[drawn.ngeom]
            mujoco.mjv_initGeom(
                geom,
                KINDS[shape.kind],
                np.array(shape.size),
                at,
                turn.flatten(),
                np.array(shape.rgba, np.float32),
            )
            if shape.surface >= 0:
                geom.dataid = 2 * shape.surface
            drawn.ngeom += 1
        return np.asarray(self.renderer.render())

    def _light(self, drawn: Any, lookat: np.ndarray) -> None:
        """A lamp above the robot, wherever that has gone."""
        lamp = drawn.lights[drawn.nlight]
        lamp.pos, lamp.dir = lookat - 12 * self.scene.size * SUN, SUN
        lamp.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        lamp.ambient, lamp.diffuse, lamp.specular = [0.0] * 3, [0.55] * 3, [0.2] * 3
        lamp.castshadow, lamp.headlight = True, False
        drawn.nlight += 1

    def close(self) -> None:
        """Free what the graphics driver holds."""
        self.renderer.close()


def _listed(values: np.ndarray) -> str:
    """As MJCF writes numbers."""
    return " ".join(f"{x:.7g}" for x in values.ravel())


def frames(model: mujoco.MjModel, scene: Scene, episodes: Sequence[Episode], dt: float) -> tuple[Any, float]:
    """An iterator of pictures [H, W, 3] with all episodes side by side, and frames per second."""
    every = max(1, round(1 / (FPS * dt)))
    return _frames(model, scene, episodes, dt, every), 1 / (dt * every)


def _frames(
    model: mujoco.MjModel, scene: Scene, episodes: Sequence[Episode], dt: float, every: int
) -> Iterator[np.ndarray]:
    steps = [shown(len(episode.qpos), every) for episode in episodes]
    moved = [poses(model, scene, episode.qpos[at]) for episode, at in zip(episodes, steps, strict=True)]
    looks = [_follow(own.center) for own in moved]
    across = min(3, len(episodes))
    down = -(-len(episodes) // across)
    drawn = Stage(scene)
    try:
        for frame in range(max(len(own.center) for own in moved)):
            whole = np.full((down * HIGH, across * WIDE, 3), 255, np.uint8)
            for i, episode in enumerate(episodes):
                here = min(frame, len(moved[i].center) - 1)
                speed = along(moved[i].center[:, 0], steps[i], here, dt) if scene.travels else None
                picture = drawn.picture(moved[i], here, looks[i][here])
                tile = _lettered(picture, episode, int(steps[i][here]), speed)
                row, column = divmod(i, across)
                whole[row * HIGH : (row + 1) * HIGH, column * WIDE : (column + 1) * WIDE] = tile
            yield whole
    finally:
        drawn.close()


def _follow(center: np.ndarray) -> np.ndarray:
    """[F, 3] where the camera looks: after the robot, without its shaking."""
    width = min(15, len(center)) // 2 * 2 + 1
    padded = np.concatenate([center[:1].repeat(width // 2, 0), center, center[-1:].repeat(width // 2, 0)])
    smooth = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0).mean(axis=-1)[: len(center)]
    smooth[:, 2] = np.median(center[:, 2])
    return smooth


def along(x: np.ndarray, steps: np.ndarray, frame: int, dt: float) -> float:
    """Mean speed over the last second, in metres per second.

    Args:
        x: [F] positions at ``steps`` [F] of ``dt`` seconds.
    """
    first = int(np.searchsorted(steps, steps[frame] - round(1 / dt)))
    passed = dt * (steps[frame] - steps[first])
    return float((x[frame] - x[first]) / passed) if passed else 0.0


def _lettered(picture: np.ndarray, episode: Episode, step: int, speed: float | None) -> np.ndarray:
    """The picture with what it shows, its step, return and speed, in its upper left corner."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    ended = "  (ended)" if episode.ended and step == len(episode.rewards) - 1 else ""
    fast = "" if speed is None else f"{round(speed, 1) + 0.0:.1f} m/s   "  # no -0.0
    lines = [
        episode.label,
        f"return {episode.rewards[: step + 1].sum():,.0f}   {fast}step {step + 1:,}{ended}",
    ]
    draw.rectangle((0, 0, WIDE, 52), fill=(255, 255, 255, 150))
    draw.text((12, 6), lines[0], fill=(20, 20, 20), font=_font(17, bold=True))
    draw.text((12, 29), lines[1], fill=(20, 20, 20), font=_font(14))
    return np.asarray(image)


@functools.cache
def _font(size: int, bold: bool = False) -> Any:
    """Matplotlib's own sans serif, which is everywhere that matplotlib is."""
    from matplotlib import font_manager
    from PIL import ImageFont

    weight = "bold" if bold else "normal"
    found = font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight))
    return ImageFont.truetype(found, size)


def write(pictures: Iterator[np.ndarray], fps: float, mp4: Path, gif: Path) -> int:
    """Write both files; returns the number of frames."""
    import imageio.v2 as imageio
    from PIL import Image

    few: list[Any] = []
    every = max(1, round(fps / GIF_FPS))
    count = 0
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # what follows the fork is another program
    film = imageio.get_writer(mp4, fps=fps, codec="libx264", quality=8, macro_block_size=2, format="FFMPEG")
    with film:
        for picture in pictures:
            film.append_data(picture)
            if count % every == 0 and count < GIF_SECONDS * fps:
                high, wide, _ = picture.shape
                scale = GIF_HIGH / HIGH
                few.append(Image.fromarray(picture).resize((int(wide * scale), int(high * scale))))
            count += 1
    pace = {"duration": round(1000 * every / fps), "loop": 0, "optimize": True}
    few[0].save(gif, save_all=True, append_images=few[1:], **pace)
    return count
