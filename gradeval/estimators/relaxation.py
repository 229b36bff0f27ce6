"""Continuous relaxations of the binary states, forward or only backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import carry, check_samples, check_temperature, noise_given_state
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
        check_temperature("concrete", self.temperature)

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
        check_temperature("st-gumbel", self.temperature)

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
        check_temperature("gumbel-rao", self.temperature)
        check_samples("gumbel-rao", self.samples, 1)

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


@dataclass(frozen=True)
class BayesBiNN:
    """BayesBiNN's: Concrete states, backward [σ'((a − z)/τ) + ε/4]/τ · F'(a)/(F'(a) + ε/4), σ' = σ(1 − σ).

    Its code takes the derivative by the mean, and adds ε to both parts of the quotient. At τ = ε = 1e-10, as published,
    the states are hard samples to all digits, σ' is 0 but for a draw in 10⁹, and what is left is the factor ¼: an
    identity straight-through estimator. With ε = 0 it is Concrete.

    Args:
        temperature: τ > 0.
        epsilon: ε ≥ 0.

    Raises:
        GradevalError: the temperature is not positive, or ε is negative.

    Source: Meng, Bachmann & Khan, ICML 2020, arXiv:2002.10778, and their code; analysed in Shekhovtsov, GCPR 2021,
    arXiv:2110.03549.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> BayesBiNN()(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    temperature: float = 1e-10
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        check_temperature("bayesbinn", self.temperature)
        if not self.epsilon >= 0:
            raise GradevalError(f"bayesbinn: epsilon must be at least 0, found {self.epsilon}.")

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, quarter = inputs, self.epsilon / 4
        for layer in network.layers:
            a = layer.preactivation(x)
            z = randomness.noise(layer.noise, a.shape)
            s = torch.sigmoid((a - z) / self.temperature).detach()
            density = layer.noise.pdf(a)
            factor = (s * (1 - s) + quarter) / self.temperature * density / (density + quarter).clamp(min=1e-300)
            x = layer.encode(s + factor.detach() * carry(a))
        return loss(x)
