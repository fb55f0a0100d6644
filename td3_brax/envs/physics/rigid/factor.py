"""Sparse factorisation of matrices over a tree's degrees of freedom, products with them, sums over lanes."""

from __future__ import annotations

from collections.abc import Sequence

from td3_brax.envs.physics.rigid.lanes import Matrix, Value, dot, is_zero, lane_sum, total
from td3_brax.envs.physics.rigid.tree import Tree


class Factor:
    """Factorisation M = L' D L of a matrix with a tree's sparsity, eliminated from the leaves to the root."""

    def __init__(self, tree: Tree, matrix: Matrix) -> None:
        self._tree = tree
        rows = [list(row) for row in matrix]
        self._inverse: list[Value] = [0.0] * len(rows)
        for i in reversed(range(len(rows))):
            self._inverse[i] = 1.0 / rows[i][i]
            row, scaled = rows[i], [x * self._inverse[i] for x in rows[i][:i]]
            for j in range(i):
                for k in range(j + 1):
                    if not (is_zero(scaled[j]) or is_zero(row[k])):
                        rows[j][k] = rows[j][k] - lane_sum(scaled[j] * row[k], tree.lanes_between(i, j))
            rows[i][:i] = scaled
        self._rows = rows

    def solve(self, b: list[Value]) -> list[Value]:
        """Return the solution x of M x = b."""
        x, n = list(b), len(b)
        for i in reversed(range(n)):
            for j in range(i):
                if not is_zero(self._rows[i][j]):
                    x[j] = x[j] - lane_sum(self._rows[i][j] * x[i], self._tree.lanes_between(i, j))
        x = [a * d for a, d in zip(x, self._inverse, strict=True)]
        for i in range(n):
            x[i] = x[i] - dot(self._rows[i][:i], x[:i])
        return x


def multiply(tree: Tree, mass: Matrix, x: list[Value]) -> list[Value]:
    """Return M x for the symmetric matrix M whose lower half is in ``mass``."""
    found = [dot(mass[i][: i + 1], x[: i + 1]) for i in range(len(x))]
    for i in range(len(x)):
        for j in range(i):
            if not is_zero(mass[i][j]):
                found[j] = found[j] + lane_sum(mass[i][j] * x[i], tree.lanes_between(i, j))
    return found


def sum_over_lanes(values: Sequence[Value], lanes: Sequence[int]) -> Value:
    """Return the sum of ``values`` over all their lanes. ``lanes`` has the number of lanes of each."""
    sums: dict[int, Value] = {}
    for value, count in zip(values, lanes, strict=True):
        sums[count] = sums.get(count, 0.0) + value
    return total([lane_sum(value, count) for count, value in sums.items()])


def inner(tree: Tree, a: list[Value], b: list[Value]) -> Value:
    """Return a . b over all degrees of freedom and lanes."""
    lanes = [len(places) for places in tree.qvel]
    return sum_over_lanes([x * y for x, y in zip(a, b, strict=True)], lanes)
