"""Continuous relaxations of the binary states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import PointLoss
from gradeval.network import StochasticBinaryNetwork
from gradeval.randomness import Randomness


@dataclass(frozen=True)
class Concrete:
    """Binary Concrete (Gumbel-softmax): states relaxed to lo + (hi − lo) σ((a − z)/τ), z the injected noise.

    Args:
        temperature: τ > 0; bias falls and variance grows as it falls.

    Source: Maddison et al., ICLR 2017, arXiv:1611.00712; Jang et al., ICLR 2017, arXiv:1611.01144.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise GradevalError(f"concrete: temperature must be positive, found {self.temperature}.")

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, points * inputs],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x = inputs
        for layer in network.layers:
            a = layer.preactivation(x)
            z = randomness.noise(layer.noise, a.shape)
            x = layer.encode(torch.sigmoid((a - z) / self.temperature))
        return loss(x)
