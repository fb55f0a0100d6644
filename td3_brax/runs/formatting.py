"""Numbers, counts and commands as people read them, and paste them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def number(value: float, beside: Iterable[float] = (), least: int = 0) -> str:
    """``value`` with a comma for thousands, and the decimals that give the largest of it and those ``beside``
    it three digits; at ``least`` so many."""
    largest = max((abs(v) for v in (value, *beside) if math.isfinite(v)), default=0.0)
    decimals = 2 - math.floor(math.log10(float(f"{largest:.2e}"))) if largest else 0
    return f"{value:.2e}" if decimals > 6 else f"{value:,.{max(decimals, least)}f}"


def spread(mean: float, deviation: float, sign: str = "+-") -> str:
    """``mean`` ``sign`` ``deviation``, with as many decimals."""
    return f"{number(mean, [deviation])} {sign} {number(deviation, [mean])}"


def command(name: str, *arguments: object) -> str:
    """``td3-brax NAME ARGUMENTS``, as a shell takes it."""
    return shlex.join(["td3-brax", name, *map(str, arguments)])
