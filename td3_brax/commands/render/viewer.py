"""A page with episodes in 3D, to turn and to zoom; it opens from disk and needs no network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from td3_brax.commands.render.episodes import Episode
from td3_brax.commands.render.scene import Scene, poses
from td3_brax.commands.render.scene import shown as frames_of
from td3_brax.runs.files import write_atomically

FPS = 60
"""At most; every so many steps are left out."""
TEMPLATE = Path(__file__).with_name("viewer.html")


def write(model: mujoco.MjModel, scene: Scene, episodes: Sequence[Episode], dt: float, out: Path) -> None:
    """Write the page of ``episodes`` on ``model``, steps of ``dt`` seconds, to ``out``."""
    every = max(1, round(1 / (FPS * dt)))
    shown, heights = [], []
    for episode in episodes:
        steps = frames_of(len(episode.qpos), every)
        own = poses(model, scene, episode.qpos[steps])
        turned = np.stack([_quaternions(frame) for frame in own.rotations])
        heights.append(np.median(own.center[:, 2]))
        shown.append(
            {
                "label": episode.label,
                "poses": _packed(np.concatenate([own.positions, turned], axis=-1)),
                "center": _packed(own.center),
                "earned": _packed(np.cumsum(episode.rewards)[steps]),
                "ended": episode.ended,
            }
        )
    data = {
        "dt": dt * every,
        "ground": scene.ground,
        "height": float(heights[-1]),
        "size": scene.size,
        "azimuth": scene.azimuth,
        "elevation": scene.elevation,
        "travels": scene.travels,
        "surfaces": [
            {"vertices": _packed(own.vertices), "faces": _packed(own.faces, "<u4")} for own in scene.surfaces
        ],
        "shapes": [
            {"kind": s.kind, "size": s.size, "rgba": s.rgba, "surface": s.surface} for s in scene.shapes
        ],
        "episodes": shown,
    }
    # Inside a script element only "</" could end it early.
    text = TEMPLATE.read_text(encoding="utf-8").replace("@TITLE@", html.escape(episodes[-1].label))
    write_atomically(out, text.replace("@DATA@", json.dumps(data).replace("</", "<\\/")).encode())


def _packed(values: np.ndarray, kind: str = "<f4") -> str:
    """As base64 of little-endian float32, or another ``kind``."""
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def _quaternions(rotations: np.ndarray) -> np.ndarray:
    """[S, 3, 3] -> [S, 4], real part first."""
    made = np.empty((len(rotations), 4))
    for i, rotation in enumerate(rotations):
        mujoco.mju_mat2Quat(made[i], rotation.flatten())
    return made
