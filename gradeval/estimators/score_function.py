"""Score-function estimators: f is a black box."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gradeval.estimators.surrogate import PointLoss, carry
from gradeval.network import StochasticBinaryNetwork
from gradeval.randomness import Randomness


@dataclass(frozen=True)
class Reinforce:
    """REINFORCE without a baseline: f(x) Σₖ ∇ log P(sᵏ | xᵏ⁻¹).

    Source: R. J. Williams, Machine Learning 8, 1992, doi:10.1007/BF00992696.
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, points * inputs],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, log_prob = inputs, inputs.new_zeros(())
        for layer in network.layers:
            a = layer.preactivation(x)
            s = randomness.bernoulli(layer.probability(a))
            log_prob = log_prob + layer.log_prob(s, a)
            x = layer.encode(s)
        f = loss(x)
        return f + f.detach() * carry(log_prob)
