"""Straight-through estimators: hard samples forward, a factor c in units of hi − lo backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gradeval.estimators.surrogate import PointLoss, carry
from gradeval.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.randomness import Randomness


def straight_through(
    network: StochasticBinaryNetwork,
    inputs: Float[Tensor, points * inputs],
    loss: PointLoss,
    randomness: Randomness,
    backward: Callable[[BinaryLayer, Tensor, Tensor], Tensor],
) -> Float[Tensor, " points"]:
    """f at a sampled path, whose states have the gradient of ``backward(layer, a, s)``."""
    x = inputs
    for layer in network.layers:
        a = layer.preactivation(x)
        s = randomness.bernoulli(layer.probability(a))
        x = layer.encode(s + carry(backward(layer, a, s)))
    return loss(x)


@dataclass(frozen=True)
class StraightThrough:
    """Straight-through with the factor c = F'(a), the linearisation of PSA.

    Source: Shekhovtsov, Yanush & Flach, NeurIPS 2020, arXiv:2006.03143; for one layer Tokui & Sato, ICML 2017,
    arXiv:1611.01239, sec. 6.4.
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, points * inputs],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        return straight_through(network, inputs, loss, randomness, lambda layer, a, s: layer.probability(a))


@dataclass(frozen=True)
class IdentityStraightThrough:
    """Straight-through with the factor c = 1.

    Source: G. Hinton, Neural networks for machine learning (lectures), 2012; Bengio et al. 2013, arXiv:1308.3432.
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, points * inputs],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        return straight_through(network, inputs, loss, randomness, lambda layer, a, s: a)


@dataclass(frozen=True)
class HardStraightThrough:
    """Straight-through with the factor c = ½ 1[|a| ≤ 1], the derivative of hardtanh.

    Source: Hubara et al., NeurIPS 2016, arXiv:1602.02830.
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, points * inputs],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        return straight_through(network, inputs, loss, randomness, lambda layer, a, s: 0.5 * a.clamp(-1, 1))
