"""Moment propagation: means (and variances) of the states travel through the network instead of samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.noise import safe_sqrt
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class MeanField:
    """Mean field (AP1), called tanh for its form at states ±1: x̄ᵏ = lo + (hi − lo) F(Aₖ(x̄ᵏ⁻¹)). Deterministic.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> moments = exact_moments(problem, MeanField())
        >>> round(moments.relative_bias()["all"], 3), moments.relative_variance()["all"]
        (0.774, 0.0)
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x = inputs
        for layer in network.layers:
            x = layer.encode(layer.probability(layer.preactivation(x)))
        return loss(x)


@dataclass(frozen=True)
class AssumedDensityFiltering:
    """Assumed density filtering (AP2): aᵏ ~ N(m, v) by the central limit, P(sᵏ = 1) = E[F(aᵏ)], independent units.

    The last states enter the loss as one sample of N(mean, variance).

    Source: Minka, UAI 2001, arXiv:1301.2294; Hernández-Lobato & Adams, ICML 2015, arXiv:1502.05336.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> AssumedDensityFiltering()(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        mean, variance = inputs, torch.zeros_like(inputs)
        for layer in network.layers:
            p = layer.noise.gaussian_expectation(*gaussian_moments(layer, mean, variance))
            mean, variance = layer.encode(p), layer.delta**2 * p * (1 - p)
        return loss(mean + safe_sqrt(variance) * randomness.normal(mean.shape))


@dataclass(frozen=True)
class LocalReparametrisation:
    """As assumed density filtering, but every preactivation is sampled: aᵏ ~ N(m, v), reparametrised.

    Source: Kingma et al., NeurIPS 2015, arXiv:1506.02557; Peters & Welling 2018, arXiv:1809.03368.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> LocalReparametrisation()(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        mean, variance = inputs, torch.zeros_like(inputs)
        for layer in network.layers:
            m, v = gaussian_moments(layer, mean, variance)
            p = layer.probability(m + safe_sqrt(v) * randomness.normal(m.shape))
            mean, variance = layer.encode(p), layer.delta**2 * p * (1 - p)
        return loss(mean + safe_sqrt(variance) * randomness.normal(mean.shape))


def gaussian_moments(
    layer: BinaryLayer,
    mean: Float[Tensor, "*batch points inputs"],
    variance: Float[Tensor, "*batch points inputs"],
) -> tuple[Float[Tensor, "*batch points units"], Float[Tensor, "*batch points units"]]:
    """Mean and variance of a layer's preactivations a = A(x) for independent inputs x: A(mean) and Σᵢ Mⱼᵢ² varianceᵢ.

    Args:
        layer: whose map A is affine, with the matrix M.
        mean: of the inputs, [..., points, inputs].
        variance: of the inputs, [..., points, inputs].

    Returns:
        The mean and the variance of a, each [..., points, units].

    Raises:
        GradevalError: the map is not affine by structure.
    """
    form = layer.form(mean)
    if form is None:
        raise GradevalError(
            "moment propagation (adf, local-reparam) needs maps that are affine by structure (linear, convolution, "
            f"average pooling, scale and bias, sums of these), found {type(layer.map).__name__}."
        )
    return layer.preactivation(mean), form.forward(variance, form.weight**2)
