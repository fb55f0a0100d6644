"""Pairs of geoms that can collide, and their contact parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from td3_brax.envs.physics.rigid.lanes import Matrix, Value, Vector, constant, slice_lanes, stack
from td3_brax.envs.physics.rigid.soft import Softness, make_softness
from td3_brax.envs.physics.rigid.tree import GEOM, Tree


@dataclass
class Geom:
    """One geom per lane."""

    ids: list[int]
    """[lanes] Ids in the model."""
    links: list[tuple[int, int]]
    """The links of the geoms in order, each with its number of lanes. Link -1 is the world."""
    position: Vector
    rotation: Matrix
    radius: Value
    half: Value
    """Half the length of a capsule without its caps, 0 for a sphere."""

    @property
    def link(self) -> int:
        """The link of the first lanes."""
        return self.links[0][0]

    def stack_links(self, links: Sequence[Vector]) -> Vector:
        """Return for each geom the vector of its link, with all lanes. ``links`` has a vector per link."""
        lanes = [count for _, count in self.links]
        return [stack(x, lanes) for x in zip(*(links[link] for link, _ in self.links), strict=True)]

    def split_by_link(self, values: Sequence[Value]) -> Iterator[tuple[int, Vector]]:
        """Yield each link with its lanes of ``values``."""
        end = 0
        for link, count in self.links:
            begin, end = end, end + count
            yield link, [slice_lanes(x, begin, end) for x in values] if len(self.links) > 1 else list(values)


@dataclass
class Pair:
    """A pair of geoms per lane that can collide.

    The first geom may be a plane of the world. Then the lanes may belong to several links.
    """

    geom1: Geom
    geom2: Geom
    friction: Value
    """Sliding friction coefficient, 0 for a frictionless contact."""
    softness: Softness

    @property
    def lanes(self) -> int:
        """The number of lanes."""
        return len(self.geom2.ids)


def collision_pairs(model: mujoco.MjModel) -> list[tuple[int, int]]:
    """Return the pairs of geoms that MuJoCo checks for collision, the lower geom type first."""
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


def group_pairs(tree: Tree, collision_pairs: list[tuple[int, int]]) -> list[Pair]:
    """Arrange pairs of geoms in lanes: those of links that share lanes, and of all links with the world."""
    model = tree.model
    slots: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
    seen: dict[tuple[int, int], int] = {}
    for a, b in collision_pairs:
        body = int(model.geom_bodyid[b])
        if tree.weld[body] == 0:  # the moving geom comes last
            a, b, body = b, a, int(model.geom_bodyid[a])
        link, lane = tree.link_and_lane[body]
        first = int(model.geom_bodyid[a])
        other = tree.link_and_lane[first][0] if tree.weld[first] else -1
        slot = seen.get((link, lane), 0)
        seen[link, lane] = slot + 1
        slots.setdefault((link, other, slot), []).append((lane, a, b))
    groups: dict[tuple[object, ...], list[tuple[int, int, list[int], list[int]]]] = {}
    for (link, other, slot), members in slots.items():
        _, ones, twos = (list(ids) for ids in zip(*sorted(members), strict=True))
        alone = (link, other, slot) if other >= 0 or not tree.merge_rows else ()
        kind = model.geom_type[ones[0]], model.geom_type[twos[0]], _has_friction(model, ones[0], twos[0])
        groups.setdefault((alone, *map(int, kind)), []).append((link, other, ones, twos))
    found = []
    for group in groups.values():
        ones = [geom for *_, ids, _ in group for geom in ids]
        twos = [geom for *_, ids in group for geom in ids]
        links = [(link, len(ids)) for link, *_, ids in group]
        found.append(_pair(tree, _geom(tree, ones, [(group[0][1], len(ones))]), _geom(tree, twos, links)))
    return found


def _has_friction(model: mujoco.MjModel, a: Any, b: Any) -> np.ndarray:
    """Return whether pairs of geoms have sliding friction."""
    return np.asarray(np.maximum(model.geom_condim[a], model.geom_condim[b]) == 3)


def _geom(tree: Tree, ids: list[int], links: list[tuple[int, int]]) -> Geom:
    model = tree.model
    poses = [tree.pose_on_link(int(model.geom_bodyid[g]), model.geom_pos[g], model.geom_quat[g]) for g in ids]
    capsule = model.geom_type[ids[0]] == GEOM.mjGEOM_CAPSULE
    return Geom(
        ids=ids,
        links=links,
        position=[constant([p[k] for _, p in poses]) for k in range(3)],
        rotation=[[constant([r[i, j] for r, _ in poses]) for j in range(3)] for i in range(3)],
        radius=constant(model.geom_size[ids, 0]),
        half=constant(model.geom_size[ids, 1]) if capsule else 0.0,
    )


def _pair(tree: Tree, geom1: Geom, geom2: Geom) -> Pair:
    """Return the pair with the contact parameters that MuJoCo mixes from both geoms."""
    model, a, b = tree.model, np.array(geom1.ids), np.array(geom2.ids)
    one_mix, two_mix = (
        np.where(x < mujoco.mjMINVAL, 0, x) for x in (model.geom_solmix[a], model.geom_solmix[b])
    )
    none = one_mix + two_mix == 0
    mix = ((one_mix + 0.5 * none) / (one_mix + two_mix + none))[:, None]
    solimp = mix * model.geom_solimp[a] + (1 - mix) * model.geom_solimp[b]
    first, second = model.geom_solref[a], model.geom_solref[b]
    times = (first[:, :1] > 0) & (second[:, :1] > 0)
    solref = np.where(times, mix * first + (1 - mix) * second, np.minimum(first, second))
    has_friction = _has_friction(model, a, b)
    mu = (
        np.maximum(mujoco.mjMINMU, np.maximum(model.geom_friction[a, 0], model.geom_friction[b, 0]))
        * has_friction
    )
    weight = model.body_invweight0[model.geom_bodyid[a], 0] + model.body_invweight0[model.geom_bodyid[b], 0]
    weight = np.where(has_friction, weight * (1 + mu**2) * 2 * mu**2 / model.opt.impratio, weight)
    margin = model.geom_margin[a] + model.geom_margin[b]
    return Pair(geom1, geom2, constant(mu), make_softness(weight, solref, solimp, margin, model.opt.timestep))
