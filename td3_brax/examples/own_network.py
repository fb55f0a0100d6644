"""Train with your own network for the critics: each hidden layer is normalised before its ReLU.

python -m td3_brax.examples.own_network

The actor can't be replaced, because a saved policy must run with NumPy alone.
"""

import flax.linen as nn
import jax

import td3_brax
from td3_brax.algorithm.networks import Dense, LayerNorm


class Normalized(nn.Module):
    """The network of one critic: observation and action [..., I] -> [..., outputs]."""

    hidden_sizes: tuple[int, ...]
    outputs: int
    compute_dtype: str
    """Type of the operands of matrix products."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the network; see the class."""
        for size in self.hidden_sizes:
            x = nn.relu(LayerNorm()(Dense(size, self.compute_dtype)(x)))
        return Dense(self.outputs, self.compute_dtype)(x)


if __name__ == "__main__":
    run = td3_brax.fit(critic="td3_brax.examples.own_network:Normalized", seed=0)
    print(run.policy("best").meta)
