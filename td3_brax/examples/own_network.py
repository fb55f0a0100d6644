"""A network of one's own for the critics: layers that are normalised before their ReLUs.

python -m td3_brax.examples.own_network

The actor stays what a saved policy is, so that it needs NumPy alone.
"""

import flax.linen as nn
import jax

import td3_brax
from td3_brax.algorithm.networks import Dense, LayerNorm


class Normalized(nn.Module):
    """Observation and action [..., I] -> [..., outputs]; there is one for each critic."""

    hidden_sizes: tuple[int, ...]
    outputs: int
    compute_dtype: str
    """Of products."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        for size in self.hidden_sizes:
            x = nn.relu(LayerNorm()(Dense(size, self.compute_dtype)(x)))
        return Dense(self.outputs, self.compute_dtype)(x)


if __name__ == "__main__":
    run = td3_brax.fit(critic="td3_brax.examples.own_network:Normalized", seed=0)
    print(run.policy("best").meta)
