"""Constructor arguments and models of the installed Gymnasium's tasks."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from td3_brax.envs.suppress import suppress_warnings
from td3_brax.option import ConfigError, nearest

NOT_SUPPORTED = ("self", "xml_file", "default_camera_config", "kwargs")
"""Gymnasium's constructor arguments for another model or for rendering, which are not supported."""


def arguments(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of Gymnasium's class for ``name``: the defaults, overridden by ``args``.

    Raises:
        ConfigError: the class does not take an argument, or its type is not that of the default.
    """
    import gymnasium

    with suppress_warnings():
        module, _, class_name = str(gymnasium.spec(name).entry_point).partition(":")
        made = getattr(import_module(module), class_name)
    known = {
        key: parameter.default
        for key, parameter in inspect.signature(made.__init__).parameters.items()
        if key not in NOT_SUPPORTED and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    for key, value in args.items():
        if key not in known:
            takes = ", ".join(known) or "none"
            raise ConfigError("env_args", key, f"{name} takes {takes}{nearest(key, known)}")
        known[key] = _fit(name, key, value, known[key])
    return known


def _fit(name: str, key: str, value: Any, default: Any) -> Any:
    """Return ``value`` with the type of ``default``.

    Raises:
        ConfigError: ``value`` has another type.
    """

    def is_number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool)

    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value))
        kind = "two numbers, such as [0.2, 1.0]"
    elif key == "frame_skip":
        fits, kind = is_number(value) and value == int(value) and value > 0, "a whole number above 0"
    elif key == "main_body":
        fits, kind = isinstance(value, int | str) and not isinstance(value, bool), "a body's name or number"
    else:
        fits, kind = is_number(value), "a number"
    if not fits:
        raise ConfigError("env_args", f"{key}: {value}", f"{name}'s {key} must be {kind}")
    return tuple(value) if isinstance(default, tuple) else value


def fingerprint(model: mujoco.MjModel) -> str:
    """Return a hash of the compiled model's dynamics, with numbers rounded to four digits."""
    fields = (
        "qpos0 body_mass body_inertia body_pos body_invweight0 jnt_type jnt_range jnt_stiffness jnt_margin "
        "jnt_solref jnt_solimp dof_damping dof_armature dof_invweight0 geom_type geom_size geom_friction "
        "geom_solref geom_solimp geom_margin geom_contype geom_conaffinity actuator_gear actuator_ctrlrange"
    )
    options = ("timestep", "integrator", "cone", "solver", "density", "viscosity", "gravity", "disableflags")
    values = [np.ravel(getattr(model, name)) for name in fields.split()]
    values += [np.ravel(getattr(model.opt, name)) for name in options]
    text = ";".join(",".join(f"{float(x) + 0:.3e}" for x in row) for row in values)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


FINGERPRINTS = {
    "ant.xml": "373e940b79f318ce",
    "half_cheetah.xml": "6526f5eebad6fdd7",
    "hopper.xml": "1e721138a46a5430",
    "inverted_double_pendulum.xml": "f6f5c04fc27bbc9e",
    "inverted_pendulum.xml": "2a112f37b8b69bc7",
    "reacher.xml": "c452fdf588b81c5d",
    "swimmer.xml": "4029a0f2ee566d64",
    "walker2d.xml": "74ce8c42db2a06d8",
    "walker2d_v5.xml": "4c631f32cb60ebd7",
}
"""Fingerprints of the models that the tests compare with Gymnasium."""


def model_of(name: str, file: str) -> mujoco.MjModel:
    """Return Gymnasium's model in ``file`` for the task ``name``.

    Raises:
        ConfigError: the model differs from the tested one.
    """
    folder = Path(str(resources.files("gymnasium"))) / "envs" / "mujoco" / "assets"
    with suppress_warnings():
        model = mujoco.MjModel.from_xml_path(str(folder / file))
    if fingerprint(model) != FINGERPRINTS[file]:
        raise ConfigError(
            "env", name, f"{file} of the installed Gymnasium or MuJoCo differs from the tested model"
        )
    return model
