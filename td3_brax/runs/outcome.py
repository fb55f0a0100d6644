"""The progress and results of a run so far."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Outcome:
    """The progress and results of a run so far; saved in its checkpoints."""

    env_steps: int = 0
    chunk: int = 0
    return_mean: float = math.nan
    return_std: float = math.nan
    broken: int = 0
    """Broken episodes of the latest evaluation; ``return_mean`` leaves them out."""
    best: float = -math.inf
    best_env_steps: int = 0
    best_broken: int = 0
    kept: float = math.nan
    """Mean return of the best policy in fresh episodes, which no evaluation had; NaN before the end."""
    kept_std: float = math.nan
    broken_steps: int = 0
    """Environment steps that broke during training."""
    waited_steps: int = 0
    """Environment steps that were not made because an environment waited for an initial state."""
    wall_s: float = 0.0
    """Seconds since the command started, plus those of earlier processes of this run."""

    def improves(self) -> bool:
        """Return whether the latest evaluation is the best: fewer broken episodes, then a higher return."""
        first = math.isinf(self.best)
        return first or (-self.broken, self.return_mean) > (-self.best_broken, self.best)

    def keep(self, env_steps: int) -> None:
        """Note the latest evaluation, made after ``env_steps``, as the best."""
        self.best, self.best_env_steps, self.best_broken = self.return_mean, env_steps, self.broken
