"""How a run stands."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Outcome:
    """How a run stands."""

    env_steps: int = 0
    chunk: int = 0
    return_mean: float = math.nan
    return_std: float = math.nan
    broken: int = 0
    """Episodes of that evaluation that broke: the return is the others'."""
    best: float = -math.inf
    best_env_steps: int = 0
    best_broken: int = 0
    kept: float = math.nan
    """Mean return of the best policy in episodes that no evaluation had; NaN before the end."""
    kept_std: float = math.nan
    broken_steps: int = 0
    """Environment steps that broke while training."""
    waited_steps: int = 0
    """Steps that no environment made, for want of an initial state."""
    wall_s: float = 0.0
    """Since the command, that of the processes before this one included."""

    def improves(self) -> bool:
        """Return whether the latest evaluation is the best: fewest episodes broke, then most returned."""
        first = math.isinf(self.best)
        return first or (-self.broken, self.return_mean) > (-self.best_broken, self.best)

    def keep(self, env_steps: int) -> None:
        """Note the latest evaluation, after ``env_steps``, as the best."""
        self.best, self.best_env_steps, self.best_broken = self.return_mean, env_steps, self.broken
