"""Write an interactive page that shows episodes in 3D. It opens from disk and needs no network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from td3_brax.commands.render.episodes import Episode
from td3_brax.commands.render.scene import Scene, poses, shown_steps
from td3_brax.runs.files import write_atomically

FPS = 60
"""Frames per second, at most; if there are more steps, some are left out."""
TEMPLATE = Path(__file__).with_name("viewer.html")


def write(model: mujoco.MjModel, scene: Scene, episodes: Sequence[Episode], dt: float, out: Path) -> None:
    """Write the page with ``episodes`` of ``model``, whose steps take ``dt`` seconds, to ``out``."""
    stride = max(1, round(1 / (FPS * dt)))
    shown_episodes, heights = [], []
    for episode in episodes:
        steps = shown_steps(len(episode.qpos), stride)
        moved = poses(model, scene, episode.qpos[steps])
        turned = np.stack([_quaternions(frame) for frame in moved.rotations])
        heights.append(np.median(moved.center[:, 2]))
        shown_episodes.append(
            {
                "label": episode.label,
                "poses": _base64(np.concatenate([moved.positions, turned], axis=-1)),
                "center": _base64(moved.center),
                "earned": _base64(np.cumsum(episode.rewards)[steps]),
                "ended": episode.ended,
            }
        )
    data = {
        "dt": dt * stride,
        "ground": scene.ground,
        "height": float(heights[-1]),
        "size": scene.size,
        "azimuth": scene.azimuth,
        "elevation": scene.elevation,
        "travels": scene.travels,
        "surfaces": [
            {"vertices": _base64(one.vertices), "faces": _base64(one.faces, "<u4")} for one in scene.surfaces
        ],
        "shapes": [
            {"kind": s.kind, "size": s.size, "rgba": s.rgba, "surface": s.surface} for s in scene.shapes
        ],
        "episodes": shown_episodes,
    }
    # In a script element only "</" could end the element early.
    text = TEMPLATE.read_text(encoding="utf-8").replace("@TITLE@", html.escape(episodes[-1].label))
    write_atomically(out, text.replace("@DATA@", json.dumps(data).replace("</", "<\\/")).encode())


def _base64(values: np.ndarray, kind: str = "<f4") -> str:
    """Encode an array as base64 of little-endian float32 or another ``kind``."""
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def _quaternions(rotations: np.ndarray) -> np.ndarray:
    """Convert rotation matrices [S, 3, 3] to quaternions [S, 4], real part first."""
    quaternions = np.empty((len(rotations), 4))
    for i, rotation in enumerate(rotations):
        mujoco.mju_mat2Quat(quaternions[i], rotation.flatten())
    return quaternions
