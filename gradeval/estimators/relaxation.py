"""Continuous relaxations of the binary states, forward or only backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import carry, noise_given_state
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class Concrete:
    """Binary Concrete (Gumbel-softmax): states relaxed to lo + (hi − lo) σ((a − z)/τ), z the injected noise.

    Args:
        temperature: τ > 0; bias falls and variance grows as it falls.

    Raises:
        GradevalError: the temperature is not positive.

    Source: Maddison et al., ICLR 2017, arXiv:1611.00712; Jang et al., ICLR 2017, arXiv:1611.01144.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> Concrete(temperature=0.1)(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise GradevalError(f"concrete: temperature must be positive, found {self.temperature}.")

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x = inputs
        for layer in network.layers:
            a = layer.preactivation(x)
            z = randomness.noise(layer.noise, a.shape)
            x = layer.encode(torch.sigmoid((a - z) / self.temperature))
        return loss(x)


@dataclass(frozen=True)
class GumbelST:
    """Straight-through Gumbel-softmax: hard samples s = 1[a ≥ z] forward, the derivative of σ((a − z)/τ) backward.

    Args:
        temperature: τ > 0.

    Raises:
        GradevalError: the temperature is not positive.

    Source: Jang et al., ICLR 2017, arXiv:1611.01144, sec. 2.2.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> GumbelST(temperature=0.5)(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise GradevalError(f"st-gumbel: temperature must be positive, found {self.temperature}.")

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        return GumbelRao(self.temperature, samples=1)(network, inputs, loss, randomness)


@dataclass(frozen=True)
class GumbelRao:
    """Gumbel–Rao: hard samples s forward; backward the mean over K noises z given s of the derivative of σ((a − z)/τ).

    s is drawn first and then the noises given it. K = 1 is straight-through Gumbel-softmax.

    Args:
        temperature: τ > 0.
        samples: K ≥ 1.

    Raises:
        GradevalError: the temperature is not positive, or there is no sample.

    Source: Paulus, Maddison & Krause, ICLR 2021, arXiv:2010.04838, eq. 8.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> GumbelRao(samples=10)(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    temperature: float = 1.0
    samples: int = 10

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise GradevalError(f"gumbel-rao: temperature must be positive, found {self.temperature}.")
        if self.samples < 1:
            raise GradevalError(f"gumbel-rao: samples must be at least 1, found {self.samples}.")

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x = inputs
        for layer in network.layers:
            a = layer.preactivation(x)
            s = randomness.bernoulli(layer.probability(a))
            z = noise_given_state(layer, a, s, randomness.uniform([self.samples, *a.shape])).detach()
            x = layer.encode(s + carry(torch.sigmoid((a - z) / self.temperature).mean(0)))
        return loss(x)
