"""Names that options accept: tasks, presets and physics."""

from __future__ import annotations

import re

BRAX_TASKS = (
    "ant",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "swimmer",
    "walker2d",
)
GYMNASIUM_TASKS = tuple(
    f"{family}-v{version}"
    for family in (
        "Ant",
        "HalfCheetah",
        "Hopper",
        "InvertedDoublePendulum",
        "InvertedPendulum",
        "Reacher",
        "Swimmer",
        "Walker2d",
    )
    for version in (5, 4)
)
PLAYGROUND = "playground:"
"""Prefix of the name of a MuJoCo Playground task."""
USER_CODE = re.compile(r"(?!playground:)[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""Pattern of a user's class or function: a module and a name in it, such as ``my_tasks:Hover``."""
PRESETS = ("quick", "paper", "author", "our-ddpg")
BACKENDS = ("mjx", "generalized", "positional", "spring")
PHYSICS = ("auto", "fast", "mjx")
