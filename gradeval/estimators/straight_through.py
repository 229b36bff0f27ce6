"""Straight-through estimators: hard samples forward, a factor c in units of hi − lo backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import carry, check_samples, check_temperature
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


def with_backward_factor(
    network: StochasticBinaryNetwork,
    inputs: Float[Tensor, "points *inputs"],
    loss: PointLoss,
    randomness: Randomness,
    backward: Callable[[BinaryLayer, Tensor, Tensor], Tensor],
) -> Float[Tensor, " points"]:
    """The surrogate of a straight-through estimator: f at a sampled path, with another gradient in its states.

    Args:
        network: the network.
        inputs: x⁰, [points, inputs].
        loss: f of the last layer's states.
        randomness: where the states come from.
        backward: (layer, a, s) -> a function of a whose derivative is the factor c.

    Returns:
        f of each point, [points].
    """
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

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> round(exact_moments(problem, StraightThrough()).relative_bias()["all"], 3)
        0.119
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        return with_backward_factor(network, inputs, loss, randomness, lambda layer, a, s: layer.probability(a))


@dataclass(frozen=True)
class IdentityStraightThrough:
    """Straight-through with the factor c = 1.

    Source: G. Hinton, Neural networks for machine learning (lectures), 2012; Bengio et al. 2013, arXiv:1308.3432.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> round(exact_moments(problem, IdentityStraightThrough()).relative_bias()["all"], 3)
        10.449
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        return with_backward_factor(network, inputs, loss, randomness, lambda layer, a, s: a)


@dataclass(frozen=True)
class HardStraightThrough:
    """Straight-through with the factor c = ½ 1[|a| ≤ 1], the derivative of hardtanh.

    Source: Hubara et al., NeurIPS 2016, arXiv:1602.02830.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> round(exact_moments(problem, HardStraightThrough()).relative_bias()["all"], 3)
        0.861
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        return with_backward_factor(network, inputs, loss, randomness, lambda layer, a, s: 0.5 * a.clamp(-1, 1))


@dataclass(frozen=True)
class DecoupledST:
    """Straight-through with two temperatures: P(s = 1) = F(a/τf) forward, the derivative of F(a/τb) backward.

    With τf ≠ 1 the states are not the network's: f's value and the head's gradient are then those of another.

    Args:
        forward: τf > 0.
        backward: τb > 0; with τf = τb = 1 it is `st`.

    Raises:
        GradevalError: a temperature is not positive.

    Source: Shah, Yan, Mozer & Liu 2024, arXiv:2410.13331 (v2).

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> round(exact_moments(problem, DecoupledST(backward=2.0)).relative_bias()["all"], 3)
        0.447
    """

    forward: float = 1.0
    backward: float = 2.0

    def __post_init__(self) -> None:
        for name, temperature in (("forward", self.forward), ("backward", self.backward)):
            if not temperature > 0:
                raise GradevalError(f"decoupled-st: {name} must be positive, found {temperature}.")

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
            s = randomness.bernoulli(layer.probability(a / self.forward))
            x = layer.encode(s + carry(layer.probability(a / self.backward)))
        return loss(x)


@dataclass(frozen=True)
class ReinMax:
    """ReinMax, also ZGR and DARN(½) for binary units: straight-through with the factor c = F'(a)/(2 P(s)).

    Source: Liu et al., NeurIPS 2023, arXiv:2304.08612; Shekhovtsov, ICML 2023 (PMLR 202), "Cold analysis of
    Rao-Blackwellized straight-through Gumbel-softmax" (ZGR); Gregor et al., ICML 2014, arXiv:1310.8499 (DARN).

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> round(exact_moments(problem, ReinMax()).relative_bias()["all"], 3)
        0.058
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        return with_backward_factor(network, inputs, loss, randomness, _half_score)


@dataclass(frozen=True)
class ReinMaxRao:
    """ReinMax with a Gumbel–Rao derivative: straight-through with the factor 2 g − ½ p(1 − p) by the logit of p = F(a).

    For logistic noise ReinMax is 2 q(1 − q) − ½ p(1 − p) with q = (p + s)/2. Here q(1 − q) is replaced by g, the mean
    over K noises z, given the state s of a unit whose logit is α = log q/(1 − q), of the derivative of σ((α − z)/τ).

    Args:
        temperature: τ > 0.
        samples: K ≥ 1.

    Raises:
        GradevalError: the temperature is not positive, or there is no sample.

    Source: Wang & Bui 2026, arXiv:2603.08257, eq. 17, whose second term is taken at a as in ReinMax and in the authors'
    code.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> ReinMaxRao()(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    temperature: float = 1.0
    samples: int = 10

    def __post_init__(self) -> None:
        check_temperature("reinmax-rao", self.temperature)
        check_samples("reinmax-rao", self.samples, 1)

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        def backward(layer: BinaryLayer, a: Tensor, s: Tensor) -> Tensor:
            v = randomness.uniform([self.samples, *a.shape])
            with torch.no_grad():
                sign = 2 * s - 1
                p, p_not = layer.probability(sign * a), layer.probability(-sign * a)  # of s and of its flip
                q = (1 + p) / 2
                relaxed = (torch.logit(q) - torch.logit(v * q)) / self.temperature  # ± (α − z)/τ
                g = (torch.sigmoid(relaxed) * torch.sigmoid(-relaxed)).mean(0) / self.temperature
            return (2 * g - 0.5 * p * p_not) * layer.noise.log_odds(a)

        return with_backward_factor(network, inputs, loss, randomness, backward)


@dataclass(frozen=True)
class Mve:
    """Straight-through with the factor c = F'(a) [(1 − λ) + λ/(2 P(s))], λ = 4p(1 − p)t/(1 + 4p(1 − p)t), p = F(a).

    Args:
        strength: t ≥ 0; 0 is `st`, t → ∞ is `reinmax`.

    Raises:
        GradevalError: the strength is negative or infinite.

    Source: Hooper & Shekhovtsov, "Generalized and optimal straight-through estimators", AISTATS 2026,
    https://openreview.net/forum?id=5LZQfHUVER (here its binary form).

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> round(exact_moments(problem, Mve(strength=1.0)).relative_bias()["all"], 3)
        0.086
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise GradevalError(f"mve: strength must be at least 0 and finite, found {self.strength}.")

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        def backward(layer: BinaryLayer, a: Tensor, s: Tensor) -> Tensor:
            p = layer.probability(a)
            ratio = 4 * self.strength * (p * layer.probability(-a)).detach()
            share = ratio / (1 + ratio)
            return (1 - share) * p + share * _half_score(layer, a, s)

        return with_backward_factor(network, inputs, loss, randomness, backward)


def _half_score(layer: BinaryLayer, a: Tensor, s: Tensor) -> Tensor:
    """½σ log P(s) with σ = 2s − 1, whose derivative is F'(a)/(2 P(s))."""
    sign = 2 * s - 1
    # clamped: an impossible state, as enumeration meets it, has log P = −∞, and the states above would be NaN
    return 0.5 * sign * layer.noise.log_cdf(sign * a).clamp(min=-1e300)
