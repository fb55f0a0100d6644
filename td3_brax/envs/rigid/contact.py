"""Contacts of planes, spheres and capsules: which can be, where they are, how stiff they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np

from td3_brax.envs.rigid.lanes import (
    Matrix,
    Value,
    Vector,
    apply,
    column,
    constant,
    cross,
    dot,
    minus,
    plus,
    raw,
    rotate,
    some,
    stack,
    times,
    where,
)
from td3_brax.envs.rigid.motion import Pose
from td3_brax.envs.rigid.soft import Soft, soft
from td3_brax.envs.rigid.tree import GEOM, Tree


@dataclass
class Geom:
    """One shape of each lane."""

    ids: list[int]
    """[lanes] in the model."""
    links: list[tuple[int, int]]
    """Each link that has some of them, one after the other, and how many lanes; -1: the world's."""
    position: Vector
    rotation: Matrix
    radius: Value
    half: Value
    """Half the length between a capsule's ends, 0 for a sphere."""

    @property
    def link(self) -> int:
        """Of the first."""
        return self.links[0][0]

    def of(self, links: Sequence[Vector]) -> Vector:
        """``links`` has a vector for each link: that of each shape's."""
        lanes = [count for _, count in self.links]
        return [stack(x, lanes) for x in zip(*(links[link] for link, _ in self.links), strict=True)]

    def parts(self, values: Sequence[Value]) -> Iterator[tuple[int, Vector]]:
        """The links, and the lanes of ``values`` that are theirs."""
        end = 0
        for link, count in self.links:
            begin, end = end, end + count
            yield link, [some(x, begin, end) for x in values] if len(self.links) > 1 else list(values)


@dataclass
class Pair:
    """Two shapes that can touch, of each lane: the first may be a plane of the world. Such lanes can be of
    several links."""

    one: Geom
    two: Geom
    friction: Value
    """0: none."""
    soft: Soft

    @property
    def lanes(self) -> int:
        """How many there are."""
        return len(self.two.ids)


@dataclass
class Touch:
    """One contact of a pair."""

    pair: Pair
    position: Vector
    """From the point that :class:`Pose` is about."""
    frame: Matrix
    """Normal, from the first shape to the second, and two tangents, in rows."""
    distance: Value


def touching(model: mujoco.MjModel) -> list[tuple[int, int]]:
    """Pairs of geoms that MuJoCo lets touch, the one of lower type first."""
    weld, found = model.body_weldid, []
    above = weld[model.body_parentid]
    for a in range(model.ngeom):
        for b in range(a + 1, model.ngeom):
            one, two = (a, b) if model.geom_type[a] <= model.geom_type[b] else (b, a)
            masks = (model.geom_contype[a] & model.geom_conaffinity[b]) | (
                model.geom_contype[b] & model.geom_conaffinity[a]
            )
            first, second = weld[model.geom_bodyid[a]], weld[model.geom_bodyid[b]]
            related = first and second and (above[first] == second or above[second] == first)
            if masks and first != second and not related:
                found.append((one, two))
    return found


def pairs(tree: Tree, touching: list[tuple[int, int]]) -> list[Pair]:
    """The same, in lanes: of alike links, and where the world is touched of all links."""
    model = tree.model
    slots: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
    seen: dict[tuple[int, int], int] = {}
    for a, b in touching:
        body = int(model.geom_bodyid[b])
        if tree.weld[body] == 0:  # the moving one last
            a, b, body = b, a, int(model.geom_bodyid[a])
        link, lane = tree.place[body]
        first = int(model.geom_bodyid[a])
        other = tree.place[first][0] if tree.weld[first] else -1
        slot = seen.get((link, lane), 0)
        seen[link, lane] = slot + 1
        slots.setdefault((link, other, slot), []).append((lane, a, b))
    groups: dict[tuple[object, ...], list[tuple[int, int, list[int], list[int]]]] = {}
    for (link, other, slot), members in slots.items():
        _, ones, twos = (list(ids) for ids in zip(*sorted(members), strict=True))
        alone = (link, other, slot) if other >= 0 or not tree.alike else ()
        kind = model.geom_type[ones[0]], model.geom_type[twos[0]], _slides(model, ones[0], twos[0])
        groups.setdefault((alone, *map(int, kind)), []).append((link, other, ones, twos))
    found = []
    for group in groups.values():
        ones = [geom for *_, own, _ in group for geom in own]
        twos = [geom for *_, own in group for geom in own]
        links = [(link, len(own)) for link, *_, own in group]
        found.append(_pair(tree, _geom(tree, ones, [(group[0][1], len(ones))]), _geom(tree, twos, links)))
    return found


def _slides(model: mujoco.MjModel, a: Any, b: Any) -> np.ndarray:
    """Whether pairs of geoms have friction."""
    return np.asarray(np.maximum(model.geom_condim[a], model.geom_condim[b]) == 3)


def _geom(tree: Tree, ids: list[int], links: list[tuple[int, int]]) -> Geom:
    model = tree.model
    poses = [tree.on_link(int(model.geom_bodyid[g]), model.geom_pos[g], model.geom_quat[g]) for g in ids]
    capsule = model.geom_type[ids[0]] == GEOM.mjGEOM_CAPSULE
    return Geom(
        ids=ids,
        links=links,
        position=[constant([p[k] for _, p in poses]) for k in range(3)],
        rotation=[[constant([r[i, j] for r, _ in poses]) for j in range(3)] for i in range(3)],
        radius=constant(model.geom_size[ids, 0]),
        half=constant(model.geom_size[ids, 1]) if capsule else 0.0,
    )


def _pair(tree: Tree, one: Geom, two: Geom) -> Pair:
    """With the parameters that MuJoCo mixes from both."""
    model, a, b = tree.model, np.array(one.ids), np.array(two.ids)
    mix = (model.geom_solmix[a] / (model.geom_solmix[a] + model.geom_solmix[b]))[:, None]
    solimp = mix * model.geom_solimp[a] + (1 - mix) * model.geom_solimp[b]
    solref = mix * model.geom_solref[a] + (1 - mix) * model.geom_solref[b]
    slides = _slides(model, a, b)
    mu = np.where(slides, np.maximum(model.geom_friction[a, 0], model.geom_friction[b, 0]), 0)
    weight = model.body_invweight0[model.geom_bodyid[a], 0] + model.body_invweight0[model.geom_bodyid[b], 0]
    weight = np.where(slides, weight * (1 + mu**2) * 2 * mu**2 / model.opt.impratio, weight)
    margin = model.geom_margin[a] + model.geom_margin[b]
    return Pair(one, two, constant(mu), soft(weight, solref, solimp, margin, model.opt.timestep))


def touches(tree: Tree, pose: Pose, pairs: list[Pair], steep: bool) -> list[Touch]:
    """All contacts of ``pairs``.

    Args:
        steep: whether a capsule's first tangent lies along it however it stands, as in MuJoCo, rather than
            at less than 60 degrees to the plane only, as in MJX (whose other tangent is not square to a plane
            that is not level; ours is).
    """
    found = []
    for pair in pairs:
        plane = tree.model.geom_type[pair.one.ids[0]] == GEOM.mjGEOM_PLANE
        found += _on_plane(pose, pair, steep) if plane else [_between(pose, pair)]
    return found


def _segment(pose: Pose, geom: Geom) -> tuple[Vector, Vector]:
    """Centre and axis of a shape."""
    if geom.link < 0:
        return minus(geom.position, pose.origin), column(geom.rotation, 2)
    turn = [geom.of([rotation[i] for rotation in pose.rotation]) for i in range(3)]
    centre = plus(geom.of(pose.position), rotate(turn, geom.position))
    return centre, rotate(turn, column(geom.rotation, 2))


def _on_plane(pose: Pose, pair: Pair, steep: bool) -> list[Touch]:
    at, normal = _segment(pose, pair.one)
    centre, axis = _segment(pose, pair.two)
    height = dot(normal, minus(centre, at))
    if pair.two.half == 0.0:
        return [_touch(pair, centre, normal, _frame(normal), height - pair.two.radius)]
    frame = _along(normal, axis, steep)
    rise = pair.two.half * dot(normal, axis)
    ends = [plus(centre, times(pair.two.half, axis)), minus(centre, times(pair.two.half, axis))]
    heights = [height + rise - pair.two.radius, height - rise - pair.two.radius]
    return [_touch(pair, end, normal, frame, h) for end, h in zip(ends, heights, strict=True)]


def _touch(pair: Pair, centre: Vector, normal: Vector, frame: Matrix, distance: Value) -> Touch:
    """Between a sphere at ``centre`` and what is below it."""
    depth = pair.two.radius + 0.5 * distance
    return Touch(pair, minus(centre, times(depth, normal)), frame, distance - pair.soft.margin)


def _frame(normal: Vector) -> Matrix:
    """A normal and two tangents."""
    y, z = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    if isinstance(normal[1], float):
        side = y if -0.5 < normal[1] < 0.5 else z
        tangent = minus(side, times(dot(normal, side), normal))
        length = dot(tangent, tangent)
        tangent = times(length**-0.5 if isinstance(length, float) else 1.0 / apply(jnp.sqrt, length), tangent)
    else:
        level = abs(raw(normal[1])) < 0.5
        either: Vector = [0.0, where(level, 1.0, 0.0), where(level, 0.0, 1.0)]
        tangent = minus(either, times(dot(normal, either), normal))
        tangent = times(1.0 / apply(jnp.sqrt, dot(tangent, tangent)), tangent)
    return [normal, tangent, cross(normal, tangent)]


def _along(normal: Vector, axis: Vector, steep: bool) -> Matrix:
    """A normal and two tangents, the first along a capsule where that is possible."""
    _, fixed, _ = _frame(normal)
    level = minus(axis, times(dot(normal, axis), normal))
    length = apply(jnp.sqrt, dot(level, level))
    enough = raw(length) > (1e-7 if steep else 0.5)
    inverse = 1.0 / apply(jnp.maximum, length, 1e-7)
    tangent = [where(enough, inverse * a, b) for a, b in zip(level, fixed, strict=True)]
    return [normal, tangent, cross(normal, tangent)]


def _between(pose: Pose, pair: Pair) -> Touch:
    """Between two capsules or spheres, where they are closest."""
    (one, along), (two, across) = _segment(pose, pair.one), _segment(pose, pair.two)
    apart = minus(two, one)
    a, b = dot(along, apart), dot(across, apart)
    cosine = dot(along, across)

    def within(x: Value, half: Value) -> Value:
        return apply(jnp.clip, x, -half, half)

    # Where the lines through both are closest, then the nearest point of each segment to the other's.
    s = within((a - cosine * b) / apply(jnp.maximum, 1.0 - cosine * cosine, 1e-9), pair.one.half)
    t = within(cosine * s - b, pair.two.half)
    s = within(cosine * t + a, pair.one.half)
    first, second = plus(one, times(s, along)), plus(two, times(t, across))
    between = minus(second, first)
    length = apply(jnp.sqrt, dot(between, between))
    normal = times(1.0 / apply(jnp.maximum, length, 1e-9), between)
    distance = length - pair.one.radius - pair.two.radius
    position = plus(first, times(pair.one.radius + 0.5 * distance, normal))
    return Touch(pair, position, _frame(normal), distance - pair.soft.margin)
