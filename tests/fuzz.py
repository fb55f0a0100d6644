"""Random MJCF within and just outside of what our rigid bodies cover, and a step of each beside C MuJoCo.

A robot is drawn from what is covered. Then attributes and elements of all that the installed MuJoCo's MJCF
knows (its own schema says which) are set at random. A model is right, refused by name, or wrong.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.physics.rigid.steps import Steps
from td3_brax.envs.physics.rigid.unsupported import unsupported_features
from td3_brax.envs.suppress import suppress_warnings

STATES = 12
"""From which a step is compared."""
CLOSE = 1e-6
"""Largest error of positions and velocities after a step that is right, relative to the largest velocity."""
SOLVED = 20, 8
"""Iterations and line search with which both have solved the constraints, so that only the physics differ."""

Element = ElementTree.Element
JOINT = mujoco.mjtJoint


@dataclass
class Verdict:
    """What became of a model."""

    text: str
    changed: list[str]
    """What was set at random beyond the robot, as ``element.attribute``."""
    refused: list[str] = field(default_factory=list)
    error: float = 0.0
    """The largest of all states, in units of :data:`CLOSE`: 1 and more is wrong."""

    @property
    def wrong(self) -> bool:
        """Whether it was accepted and stepped otherwise than C MuJoCo does."""
        return not self.refused and not self.error < 1


@functools.cache
def schema() -> dict[str, list[str]]:
    """Attributes of each element, by its path, such as ``worldbody/geom``; also ``default/joint``."""
    found: dict[str, list[str]] = {}
    path: list[str] = []
    for line in mujoco.mj_printSchema(False, False).splitlines():
        if start := re.match(r"( *)(\S+) \(.\) *(.*)", line):
            depth = len(start[1]) // 3
            path = [*path[:depth], start[2]]
            found["/".join(path[1:])] = start[3].split()
        elif path:
            found["/".join(path[1:])] += line.split()
    return {key: value for key, value in found.items() if value}


# A robot of what is covered.


def numbers(rng: np.random.Generator, count: int, low: float = -1, high: float = 1) -> str:
    """Some, as MJCF writes them."""
    return " ".join(f"{x:.3g}" for x in rng.uniform(low, high, count))


def maybe(rng: np.random.Generator, chance: float, **attributes: str) -> dict[str, str]:
    """Each of ``attributes`` with that chance."""
    return {key: value for key, value in attributes.items() if rng.random() < chance}


def solver_parameters(rng: np.random.Generator, name: str) -> dict[str, str]:
    """``solref`` and ``solimp`` of an element that calls them so, some at the edge of what is allowed."""
    time = f"{rng.uniform(0.001, 0.1):.3g} {rng.uniform(0.2, 2):.3g}"
    direct = f"{-rng.uniform(10, 3000):.4g} {-rng.uniform(1, 100):.3g}"
    width, power = rng.choice(["0", "0.001", "0.01", "0.1"]), rng.choice(["1", "2", "3.5"])
    solimp = f"{numbers(rng, 2, 0, 1)} {width} {numbers(rng, 1, 0, 1)} {power}"
    solref = str(rng.choice([time, time, direct, "0.02 -3"], p=[0.4, 0.25, 0.3, 0.05]))
    return maybe(rng, 0.3, **{f"solref{name}": solref, f"solimp{name}": solimp})


def geom(rng: np.random.Generator, far: bool = False) -> Element:
    """A sphere or capsule, or a box that touches nothing."""
    kind = rng.choice(["sphere", "capsule", "box"], p=[0.4, 0.45, 0.15])
    size = {"sphere": 1, "capsule": 2, "box": 3}[kind]
    masks = [("1", "1"), ("0", "1"), ("1", "0"), ("0", "0"), ("2", "3")]
    contype, conaffinity = ("0", "0") if kind == "box" else masks[rng.integers(len(masks))]
    return Element(
        "geom",
        type=kind,
        size=numbers(rng, size, 0.05, 0.2),
        pos=numbers(rng, 3, -0.3, 0.3),
        quat=numbers(rng, 4),
        contype=contype,
        conaffinity=conaffinity,
        condim=str(rng.choice(["1", "3"])),
        **maybe(
            rng,
            0.2,
            friction=str(rng.choice(["0", "0.3", "1.2", "0.7 0.1 0.1"])),
            margin=numbers(rng, 1, 0, 0.05),
            solmix=str(rng.choice(["0", "0.3", "2"])),
            density=numbers(rng, 1, 100, 2000),
        ),
        **solver_parameters(rng, ""),
    )


def joint(rng: np.random.Generator, name: str) -> Element:
    """A hinge or slide."""
    limits = rng.random() < 0.4
    low = rng.uniform(-50, 0)
    kind = str(rng.choice(["hinge", "hinge", "slide"]))
    scale = 1 if kind == "hinge" else 0.02
    return Element(
        "joint",
        name=name,
        type=kind,
        axis=numbers(rng, 3),
        pos=numbers(rng, 3, -0.1, 0.1),
        **maybe(
            rng,
            0.3,
            damping=numbers(rng, 1, 0, 3),
            stiffness=numbers(rng, 1, 0, 20),
            armature=numbers(rng, 1, 0, 0.5),
            springref=numbers(rng, 1),
            ref=numbers(rng, 1),
        ),
        **(
            {"limited": "true", "range": f"{scale * low:.3g} {scale * (low + rng.uniform(5, 60)):.3g}"}
            | maybe(rng, 0.3, margin=numbers(rng, 1, 0, 0.05))
            if limits
            else {}
        ),
        **solver_parameters(rng, "limit"),
    )


def robot(rng: np.random.Generator) -> Element:
    """A model of what is covered."""
    root = Element("mujoco")
    option = ElementTree.SubElement(
        root,
        "option",
        timestep=str(rng.choice(["0.002", "0.005", "0.01"])),
        **maybe(
            rng,
            0.3,
            integrator=str(rng.choice(["Euler", "RK4"])),
            gravity=numbers(rng, 3, -10, 10),
            impratio=numbers(rng, 1, 0.5, 5),
        ),
    )
    if rng.random() < 0.15:
        ElementTree.SubElement(option, "flag", eulerdamp="disable")
    world = ElementTree.SubElement(root, "worldbody")
    if rng.random() < 0.8:
        tilt = maybe(rng, 0.3, quat=f"1 {numbers(rng, 3, -0.1, 0.1)}")
        ground = maybe(rng, 0.2, margin="0.01", solmix="0", friction="0.4 0.1 0.1")
        ground |= solver_parameters(rng, "")
        ElementTree.SubElement(world, "geom", type="plane", size="9 9 9", **tilt, **ground)
    bodies = [world]
    alike = rng.random() < 0.3
    free = rng.random() < 0.4
    names: list[str] = []
    for i in range(rng.integers(1, 5)):
        parent = bodies[1 if alike and i > 1 else rng.integers(len(bodies))]
        where = (
            f"{numbers(rng, 2, -0.3, 0.3)} {rng.uniform(0.1, 0.5):.3g}"
            if parent is world
            else numbers(rng, 3)
        )
        body = ElementTree.SubElement(parent, "body", pos=where, quat=numbers(rng, 4))
        if i == 0 and free:
            ElementTree.SubElement(body, "freejoint")
        else:
            for _ in range(1 if alike or i == 0 else rng.integers(0, 3)):
                names.append(f"joint{len(names)}")
                body.append(joint(rng, names[-1]))
        for _ in range(1 if alike else rng.integers(1, 3)):
            body.append(geom(rng))
        if not body.findall("geom[@type]"):
            body.append(geom(rng))
        ElementTree.SubElement(body, "site", name=f"site{i}", pos=numbers(rng, 3, -0.2, 0.2))
        body.set("name", f"body{i}")
        bodies.append(body)
    for i, shape in enumerate(root.iter("geom")):
        shape.set("name", f"geom{i}")
    actuators = ElementTree.SubElement(root, "actuator")
    for name in names:
        if rng.random() < 0.5:
            ends = maybe(rng, 0.5, ctrlrange="-0.4 0.4")
            ElementTree.SubElement(actuators, "motor", joint=name, gear=numbers(rng, 1, -20, 20), **ends)
    return root


# What lies outside.

WORDS = {
    "integrator": "Euler RK4 implicit implicitfast discrete",
    "cone": "pyramidal elliptic",
    "jacobian": "dense sparse auto",
    "solver": "PGS CG Newton",
    "type": "plane sphere capsule ellipsoid cylinder box free ball slide hinge",
    "dyntype": "none integrator filter filterexact muscle user",
    "gaintype": "fixed affine muscle user",
    "biastype": "none affine muscle user",
    "fluidshape": "none ellipsoid",
    "sleep": "auto never allowed init",
    "inertiafromgeom": "true false auto",
    "angle": "radian degree",
    "fitaabb": "true false",
    "interp": "zoh linear cubic",
    "input": "force position velocity pos vel",
    "nsample": "2 4",
    "eulerseq": "xyz XYZ",
    "mode": "none fixed track trackcom",
    "memory": "1M",
}
GENERIC = (
    "true",
    "false",
    "enable",
    "disable",
    "auto",
    "0",
    "1",
    "2",
    "-1",
    "0.3",
    "5",
    "-0.7",
    "100",
    "0.01",
)
REFERENCES = {
    "joint": "joint0", "joint1": "joint0", "joint2": "joint1", "jointinparent": "joint0", "site": "site0",
    "site1": "site0", "site2": "site1", "cranksite": "site1", "slidersite": "site0", "refsite": "site1",
    "body": "body0", "body1": "body0", "body2": "body1", "geom1": "geom0", "geom2": "geom1", "geom": "geom1",
    "tendon": "tendon0", "tendon1": "tendon0", "actuator": "actuator0", "objtype": "body", "objname": "body0",
    "target": "body0", "material": "material0", "class": "main", "subtree1": "body0",
}  # fmt: skip
LEAST: dict[str, str] = {
    "contact/pair": "geom1 geom2",
    "contact/exclude": "body1 body2",
    "equality/connect": "body1 anchor",
    "equality/weld": "body1",
    "equality/joint": "joint1",
    "tendon/fixed": "",
    "tendon/spatial": "",
    "actuator/cylinder": "joint",
    "actuator/muscle": "joint",
    "actuator/adhesion": "body",
    "actuator/orientation": "joint",
    "actuator/plugin": "joint",
}
SKIPPED = {
    "file",
    "content_type",
    "dir",
    "assetdir",
    "meshdir",
    "texturedir",
    "name",
    "plugin",
    "user",
    "prefix",
}
"""Attributes that say where files lie or what things are called."""


def value(rng: np.random.Generator, attribute: str) -> str:
    """A value that ``attribute`` may take, or not: MuJoCo is asked."""
    if attribute in WORDS and rng.random() < 0.9:
        return str(rng.choice(WORDS[attribute].split()))
    if rng.random() < 0.5:
        return str(rng.choice(GENERIC))
    if rng.random() < 0.3:
        return " ".join(rng.choice(["1", "0.2", "-300", "0.01", "2"], rng.integers(1, 7)))
    return numbers(rng, int(rng.integers(1, 7)), *((-1, 1), (0, 1), (0, 5))[rng.integers(3)])


def compiled(root: Element) -> mujoco.MjModel | None:
    """The model, or nothing where MuJoCo does not take it."""
    try:
        with suppress_warnings():
            model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, "unicode"))
    except (ValueError, mujoco.FatalError):
        return None
    return model if model.nv else None


def copied(root: Element) -> Element:
    """Another of the same."""
    return ElementTree.fromstring(ElementTree.tostring(root))


def places(root: Element) -> list[tuple[str, Element]]:
    """Elements that a robot has, with their path in the schema."""
    found = [("option", x) for x in root.findall("option")] + [("option/flag", x) for x in root.iter("flag")]
    for tag in ("body", "joint", "freejoint", "geom", "site"):
        path = "worldbody" if tag == "body" else f"worldbody/{tag}"
        found += [(path, x) for x in root.iter(tag)]
    return found + [(f"actuator/{x.tag}", x) for top in root.findall("actuator") for x in top]


def child(parent: Element, tag: str) -> Element:
    """The one of that name."""
    found = parent.find(tag)
    return ElementTree.SubElement(parent, tag) if found is None else found


def inserted(rng: np.random.Generator, root: Element) -> tuple[str, Element]:
    """Add an element of the schema that the robot does not have."""
    known = [
        path
        for path in schema()
        if re.match(r"(actuator|contact|equality|tendon|sensor)/[a-z_]+$", path)
        or re.match(r"(option/flag|compiler|size|statistic|keyframe/key|custom/numeric)$", path)
        or re.match(r"default/(joint|geom|general|motor|site)$", path)
        or path
        in ("worldbody/camera", "worldbody/light", "worldbody/inertial", "worldbody/geom", "worldbody")
        or path in ("worldbody/joint", "worldbody/freejoint")
    ]
    tops = sorted({path.split("/")[0] for path in known})
    top = str(rng.choice(tops))
    path = str(rng.choice([path for path in known if path.split("/")[0] == top]))
    bodies = list(root.iter("body"))
    body = bodies[rng.integers(len(bodies))]
    if path == "worldbody":
        new = ElementTree.SubElement(
            root.find("worldbody"), "body", pos="2 0 1", **maybe(rng, 0.5, mocap="true")
        )
        ElementTree.SubElement(new, "geom", size="0.1")
    elif path.startswith("worldbody/"):
        new = Element(path.rsplit("/", 1)[1])
        if new.tag == "geom":
            where = body if rng.random() < 0.7 else root.find("worldbody")
            new.set("size", "0.2 0.2 0.2")
        else:
            where = body
        if new.tag == "inertial":
            new.attrib.update(pos=numbers(rng, 3, -0.1, 0.1), mass="2", diaginertia="0.1 0.2 0.15")
        where.insert(0, new)
    else:
        top, *rest = path.split("/")
        parent = child(root, top)
        if path == "option/flag":
            new = child(parent, "flag")
        else:
            new = ElementTree.SubElement(parent, rest[0]) if rest else parent
        if top in ("actuator", "contact", "equality", "tendon", "sensor"):
            targets = [a for a in schema()[path] if a in REFERENCES and a not in ("class", "material")]
            picked = LEAST[path].split() if path in LEAST else []
            if not picked and targets:
                picked = [str(rng.choice(targets))]
            if {"objtype", "objname"} & set(picked):
                picked = ["objtype", "objname"]
            if "cranksite" in picked or "slidersite" in picked:
                picked = ["cranksite", "slidersite"]
                new.set("cranklength", "0.4")
            if path.startswith("sensor") and len(picked) == 1 and picked[0][-1:] in "12":
                picked = ["geom1", "geom2"]
            for name in picked:
                new.set(name, REFERENCES.get(name, "0 0 0.1"))
            if "anchor" in picked:
                new.set("anchor", "0 0 0.1")
        if path == "tendon/fixed":
            new.set("name", "tendon0")
            ElementTree.SubElement(new, "joint", joint="joint0", coef="0.5")
        if path == "tendon/spatial":
            new.set("name", "tendon0")
            for site in ("site0", "site1"):
                ElementTree.SubElement(new, "site", site=site)
        if path == "custom/numeric":
            new.attrib.update(name=str(rng.choice(["max_contact_points", "other"])), data="1")
    return path, new


def changed(rng: np.random.Generator, root: Element) -> tuple[Element, str] | None:
    """The robot with one more attribute or element that MuJoCo takes; nothing where it took none of some."""
    for _ in range(40):
        new = copied(root)
        if rng.random() < 0.5:
            path, at = inserted(rng, new)
            if rng.random() < 0.2 and compiled(new) is not None:
                return new, path
        else:
            path, at = (every := places(new))[rng.integers(len(every))]
        names = [name for name in schema().get(path, []) if name not in SKIPPED]
        if not names:
            continue
        name = str(rng.choice(names))
        before = ElementTree.tostring(at)
        for _ in range(12):
            at.set(name, REFERENCES[name] if name in REFERENCES and rng.random() < 0.7 else value(rng, name))
            if ElementTree.tostring(at) != before and compiled(new) is not None:
                return new, f"{path}.{name}"
    return None


def drawn(seed: int) -> tuple[Element, list[str]]:
    """A model that MuJoCo takes, and what was changed in it."""
    rng = np.random.default_rng(seed)
    while compiled(root := robot(rng)) is None:
        pass
    names: list[str] = []
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.2, 0.5, 0.2, 0.1])):
        if new := changed(rng, root):
            root, name = new
            names.append(name)
    return root, names


# A step of both.


@suppress_warnings()
def states(model: mujoco.MjModel, seed: int) -> tuple[np.ndarray, ...] | None:
    """qpos, qvel and controls [STATES, ...] that C MuJoCo passes through; None: it diverges."""
    rng, data, rows = np.random.default_rng(seed), mujoco.MjData(model), []
    for _ in range(STATES):
        for _ in range(20):
            mujoco.mj_resetData(model, data)
            data.qvel[:] = rng.normal(size=model.nv) * rng.choice([0.1, 1])
            for joint in range(model.njnt):
                at = model.jnt_qposadr[joint]
                if (kind := model.jnt_type[joint]) == JOINT.mjJNT_HINGE:
                    data.qpos[at] += rng.uniform(-1, 1)
                elif kind == JOINT.mjJNT_SLIDE:
                    data.qpos[at] += rng.uniform(-0.2, 0.2)
            for step in range(rng.integers(0, 80)):
                if step % 10 == 0:
                    data.ctrl[:] = rng.uniform(-1, 1, model.nu)
                mujoco.mj_step(model, data)
            if (
                np.isfinite(data.qpos).all()
                and np.abs(data.qvel).max() < 100
                and not data.warning.number.any()
            ):
                rows.append((data.qpos.copy(), data.qvel.copy(), rng.uniform(-1, 1, model.nu)))
                break
        else:
            return None
    return tuple(np.stack(x) for x in zip(*rows, strict=True))


@suppress_warnings()
def in_c(
    model: mujoco.MjModel, frames: int, qpos: np.ndarray, qvel: np.ndarray, ctrl: np.ndarray
) -> np.ndarray:
    """qpos and qvel [N, ...] after ``frames`` time steps of MuJoCo's own, from no warm start."""
    data, found = mujoco.MjData(model), []
    for q, v, c in zip(qpos, qvel, ctrl, strict=True):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = q, v, c
        for _ in range(frames):
            mujoco.mj_step(model, data)
        found.append(np.concatenate([data.qpos, data.qvel]))
    return np.stack(found)


def ours(
    model: mujoco.MjModel, frames: int, qpos: np.ndarray, qvel: np.ndarray, ctrl: np.ndarray
) -> np.ndarray:
    """The same by our arithmetic, operation by operation in double precision: compiling takes longer."""
    limited = model.actuator_ctrllimited.astype(bool)
    low, high = (
        np.where(limited, x, y) for x, y in zip(model.actuator_ctrlrange.T, (-np.inf, np.inf), strict=True)
    )
    with jax.enable_x64(True), jax.disable_jit():
        inputs = (jnp.asarray(x) for x in (qpos, qvel, np.zeros_like(qvel), np.clip(ctrl, low, high)))
        after, speed, *_ = Steps(model, *SOLVED).run_arrays(*inputs, frames=frames, stop_early=True)
    return np.concatenate([after, speed], axis=1)


def judged(root: Element, seed: int, changed: list[str]) -> Verdict | None:
    """What becomes of the model; None: C MuJoCo itself makes nothing of it."""
    verdict = Verdict(ElementTree.tostring(root, "unicode"), changed)
    model = compiled(root)
    assert model is not None
    verdict.refused = unsupported_features(model)
    if verdict.refused:
        return verdict
    model.opt.iterations, model.opt.ls_iterations, model.opt.tolerance = 200, 100, 0
    at = states(model, seed)
    if at is None:
        return None
    frames = 3 if seed % 4 == 0 else 1
    wanted = in_c(model, frames, *at)
    scale = 1 + np.abs(wanted[:, model.nq :]).max(axis=1)
    error = np.abs(ours(model, frames, *at) - wanted).max(axis=1) / scale
    verdict.error = float(np.nan_to_num(error, nan=np.inf).max() / CLOSE)
    return verdict


def of_seed(seed: int) -> Verdict | None:
    """What becomes of the model that ``seed`` draws."""
    root, names = drawn(seed)
    return judged(root, seed, names)
