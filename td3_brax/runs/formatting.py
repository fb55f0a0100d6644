"""Format numbers, counts and commands for people."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """Return ``1 run``, ``2 runs``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def number(value: float, others: Iterable[float] = (), min_decimals: int = 0) -> str:
    """Format ``value`` with commas for thousands and three significant digits.

    The digits count for the largest of ``value`` and ``others``, so that all get the same decimals.
    """
    largest = max((abs(v) for v in (value, *others) if math.isfinite(v)), default=0.0)
    decimals = 2 - math.floor(math.log10(float(f"{largest:.2e}"))) if largest else 0
    return f"{value:.2e}" if decimals > 6 else f"{value:,.{max(decimals, min_decimals)}f}"


def spread(mean: float, deviation: float, sign: str = "+-") -> str:
    """Return ``mean``, ``sign`` and ``deviation``, with the same decimals for both numbers."""
    return f"{number(mean, [deviation])} {sign} {number(deviation, [mean])}"


def command(name: str, *arguments: object) -> str:
    """Return the shell command ``td3-brax NAME ARGUMENTS``, with arguments quoted where needed."""
    return shlex.join(["td3-brax", name, *map(str, arguments)])
