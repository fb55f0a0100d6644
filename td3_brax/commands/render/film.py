"""Film episodes with MuJoCo's renderer: one tile per robot, side by side, each with a camera that follows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from td3_brax.commands.render.episodes import Episode
from td3_brax.commands.render.scene import Poses, Scene, poses, rotation, shown_steps

FPS = 30
"""Frames per second, at most; a task with longer steps has fewer."""
HIGH, WIDE = 360, 480
"""Height and width of a tile in pixels; both are even, which the video format needs."""
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
"""Direction of the light."""
KINDS = {
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "surface": mujoco.mjtGeom.mjGEOM_MESH,
}


def make_stage(scene: Scene) -> mujoco.MjModel:
    """Make a model with the ground of ``scene``, and with its surfaces as meshes."""
    floor = ""
    if scene.ground is not None:
        floor = f'<geom type="plane" pos="0 0 {scene.ground}" size="0 0 1" material="floor"/>'
    surfaces = "".join(
        f'<mesh name="surface{i}" inertia="shell" vertex="{_mjcf(x.vertices)}" face="{_mjcf(x.faces)}"/>'
        for i, x in enumerate(scene.surfaces)
    )
    return mujoco.MjModel.from_xml_string(
        STAGE.format(wide=WIDE, high=HIGH, floor=floor, surfaces=surfaces, extent=scene.size)
    )


class Stage:
    """A renderer with the same ground, sky and light for every robot. Close it after use."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.model = make_stage(scene)
        self._mesh_rotations = [rotation(quaternion) for quaternion in self.model.mesh_quat]
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.renderer = mujoco.Renderer(self.model, HIGH, WIDE)
        self.camera = mujoco.MjvCamera()
        self.camera.azimuth, self.camera.elevation = scene.azimuth, scene.elevation
        self.camera.distance = scene.distance

    def picture(self, poses: Poses, frame: int, lookat: np.ndarray) -> np.ndarray:
        """Draw one frame; return the picture [HIGH, WIDE, 3]."""
        self.camera.lookat = lookat
        self.renderer.update_scene(self.data, self.camera)
        drawn = self.renderer.scene
        self._light(drawn, lookat)
        for i, shape in enumerate(self.scene.shapes):
            at, turn = poses.positions[frame, i], poses.rotations[frame, i]
            if shape.surface >= 0:  # MuJoCo's compiler has moved its vertices into the frame of its inertia
                at = at + turn @ self.model.mesh_pos[shape.surface]
                turn = turn @ self._mesh_rotations[shape.surface]
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
        """Add a light above the robot, which may have travelled far."""
        lamp = drawn.lights[drawn.nlight]
        lamp.pos, lamp.dir = lookat - 12 * self.scene.size * SUN, SUN
        lamp.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        lamp.ambient, lamp.diffuse, lamp.specular = [0.0] * 3, [0.55] * 3, [0.2] * 3
        lamp.castshadow, lamp.headlight = True, False
        drawn.nlight += 1

    def close(self) -> None:
        """Free the graphics driver's resources."""
        self.renderer.close()


def _mjcf(values: np.ndarray) -> str:
    """Format numbers for MJCF."""
    return " ".join(f"{x:.7g}" for x in values.ravel())


def frames(model: mujoco.MjModel, scene: Scene, episodes: Sequence[Episode], dt: float) -> tuple[Any, float]:
    """Return an iterator of pictures [H, W, 3] with all episodes side by side, and the frames per second."""
    stride = max(1, round(1 / (FPS * dt)))
    return _frames(model, scene, episodes, dt, stride), 1 / (dt * stride)


def _frames(
    model: mujoco.MjModel, scene: Scene, episodes: Sequence[Episode], dt: float, stride: int
) -> Iterator[np.ndarray]:
    """Yield the pictures; one in ``stride`` steps is drawn."""
    steps = [shown_steps(len(episode.qpos), stride) for episode in episodes]
    moved = [poses(model, scene, episode.qpos[at]) for episode, at in zip(episodes, steps, strict=True)]
    looks = [_camera_path(one.center) for one in moved]
    across = min(3, len(episodes))
    down = -(-len(episodes) // across)
    stage = Stage(scene)
    try:
        for frame in range(max(len(one.center) for one in moved)):
            whole = np.full((down * HIGH, across * WIDE, 3), 255, np.uint8)
            for i, episode in enumerate(episodes):
                here = min(frame, len(moved[i].center) - 1)
                speed = mean_speed(moved[i].center[:, 0], steps[i], here, dt) if scene.travels else None
                picture = stage.picture(moved[i], here, looks[i][here])
                tile = _captioned(picture, episode, int(steps[i][here]), speed)
                row, column = divmod(i, across)
                whole[row * HIGH : (row + 1) * HIGH, column * WIDE : (column + 1) * WIDE] = tile
            yield whole
    finally:
        stage.close()


def _camera_path(center: np.ndarray) -> np.ndarray:
    """Return where the camera looks in each frame [F, 3]: at the smoothed ``center`` [F, 3] of the robot."""
    width = min(15, len(center)) // 2 * 2 + 1
    padded = np.concatenate([center[:1].repeat(width // 2, 0), center, center[-1:].repeat(width // 2, 0)])
    smooth = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0).mean(axis=-1)[: len(center)]
    smooth[:, 2] = np.median(center[:, 2])
    return smooth


def mean_speed(x: np.ndarray, steps: np.ndarray, frame: int, dt: float) -> float:
    """Return the mean speed over the second before ``frame``, in metres per second.

    Args:
        x: [F] positions at ``steps`` [F] of ``dt`` seconds.
    """
    first = int(np.searchsorted(steps, steps[frame] - round(1 / dt)))
    passed = dt * (steps[frame] - steps[first])
    return float((x[frame] - x[first]) / passed) if passed else 0.0


def _captioned(picture: np.ndarray, episode: Episode, step: int, speed: float | None) -> np.ndarray:
    """Write the label, return, speed and step into the picture's upper left corner."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    ended = "  (ended)" if episode.ended and step == len(episode.rewards) - 1 else ""
    speed_text = "" if speed is None else f"{round(speed, 1) + 0.0:.1f} m/s   "  # avoids -0.0
    lines = [
        episode.label,
        f"return {episode.rewards[: step + 1].sum():,.0f}   {speed_text}step {step + 1:,}{ended}",
    ]
    draw.rectangle((0, 0, WIDE, 52), fill=(255, 255, 255, 150))
    draw.text((12, 6), lines[0], fill=(20, 20, 20), font=_font(17, bold=True))
    draw.text((12, 29), lines[1], fill=(20, 20, 20), font=_font(14))
    return np.asarray(image)


@functools.cache
def _font(size: int, bold: bool = False) -> Any:
    """Load DejaVu Sans, which comes with matplotlib."""
    from matplotlib import font_manager
    from PIL import ImageFont

    weight = "bold" if bold else "normal"
    found = font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight))
    return ImageFont.truetype(found, size)


def write(pictures: Iterator[np.ndarray], fps: float, mp4: Path, gif: Path) -> int:
    """Write the film and a short GIF of it; return the number of frames."""
    import imageio.v2 as imageio
    from PIL import Image

    few: list[Any] = []
    stride = max(1, round(fps / GIF_FPS))
    count = 0
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # the forked process only starts ffmpeg
    film = imageio.get_writer(mp4, fps=fps, codec="libx264", quality=8, macro_block_size=2, format="FFMPEG")
    with film:
        for picture in pictures:
            film.append_data(picture)
            if count % stride == 0 and count < GIF_SECONDS * fps:
                high, wide, _ = picture.shape
                scale = GIF_HIGH / HIGH
                few.append(Image.fromarray(picture).resize((int(wide * scale), int(high * scale))))
            count += 1
    pace = {"duration": round(1000 * stride / fps), "loop": 0, "optimize": True}
    few[0].save(gif, save_all=True, append_images=few[1:], **pace)
    return count
