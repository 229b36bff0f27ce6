"""Antithetic estimators: pairs of correlated samples."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gradeval.estimators.surrogate import PointLoss, carry
from gradeval.network import StochasticBinaryNetwork
from gradeval.randomness import Randomness


@dataclass(frozen=True)
class Arm:
    """ARM, for every layer k with logits α = log F(a)/(1 − F(a)): [f(1[u > 1 − F(a)]) − f(1[u < F(a)])] (u − ½) ∇α.

    The second branch, a sample of p(xᵏ | xᵏ⁻¹), is the path that goes on to layer k + 1; the first is continued by
    samples of its own. L layers cost L(L + 1)/2 layer and L + 1 loss evaluations.

    Source: Yin & Zhou, ICLR 2019, arXiv:1807.11143 (eq. 5 for one layer, sec. 3 for several).
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, points * inputs],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, branches = inputs, []
        for k, layer in enumerate(network.layers):
            a = layer.preactivation(x)
            p = layer.probability(a)
            u = randomness.uniform(a.shape)
            x = layer.encode((u < p).to(p.dtype))
            other = layer.encode((u > 1 - p).to(p.dtype))
            for after in network.layers[k + 1 :]:
                other = after.encode(randomness.bernoulli(after.probability(after.preactivation(other))))
            branches.append((loss(other), u - 0.5, layer.noise.log_odds(a)))
        f = loss(x)
        for f_other, weight, logit in branches:
            f = f + ((f_other - f).detach()[..., None] * weight * carry(logit)).sum(-1)
        return f
