"""Straight-through estimators: hard samples forward, a factor c in units of hi − lo backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import carry
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
