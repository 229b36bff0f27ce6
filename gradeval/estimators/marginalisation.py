"""Estimators that sum out one unit at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.estimators.surrogate import carry, flipped_losses, noise_given_state, sample_path
from gradeval.model.forms import Terms
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class Ram:
    """RAM (reparametrisation and marginalisation): Σ over units (k, i) of [f(x | sᵏᵢ = 1) − f(x | sᵏᵢ = 0)] ∇F(aᵏᵢ).

    All noises z stay fixed and all states that depend on sᵏᵢ are computed anew: Σₖ nₖ (L − k + 1) evaluations of a
    layer or the loss, quadratic in the depth. The least variance among estimators that treat the units one at a time.
    The states are drawn first, then the noises given them, of layers 2..L only: no flip reaches the first layer's.

    Source: Tokui & Sato, ICML 2017, arXiv:1611.01239, Algorithm 1.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> Ram()(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        steps, x = sample_path(network, inputs, randomness)
        f = loss(x)
        noises = [noise_given_state(layer, a, s, randomness.uniform(a.shape)) for layer, _, a, _, s in steps[1:]]
        value = f
        for k, (layer, _, _, p, s) in enumerate(steps):
            with torch.no_grad():
                if k + 1 == len(steps):
                    flipped = flipped_losses(loss, layer, s)  # [units, points]
                else:
                    x = layer.encode(layer.flip(s))  # [units, points, units]
                    for above, z in zip(network.layers[k + 1 :], noises[k:], strict=True):
                        x = above.encode((above.preactivation(x) >= z).to(s.dtype))
                    flipped = loss(x)
                gain = (f - flipped).movedim(0, -1)
            value = value + ((2 * s - 1) * gain * carry(p)).sum(-1)
        return value


@dataclass(frozen=True)
class Leg:
    """Local expectation gradients: for every unit Σ_{s∈{0,1}} w_s f(x with sᵏᵢ = s) ∇log P(s), all other states fixed.

    w_s ∝ P(s | xᵏ⁻¹) P(xᵏ⁺¹ | xᵏ with s) is the unit's law given all others. In the last layer w_s = P(s | xᴸ⁻¹); below
    it f does not change, and with r = P(xᵏ⁺¹ | flipped)/P(xᵏ⁺¹ | xᵏ), q = P(sᵏᵢ) the sum is
    σ f(x) (1 − r)/(q + (1 − q) r) ∇F(aᵏᵢ), σ = 2s − 1.

    Source: Titsias & Lázaro-Gredilla, NeurIPS 2015, arXiv:1503.01494, eq. 7.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, Leg()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        steps, x = sample_path(network, inputs, randomness)
        f = loss(x)
        value = f
        for (layer, _, a, p, s), above in zip(steps, [*steps[1:], None], strict=True):
            sign = 2 * s - 1
            with torch.no_grad():
                if above is None:
                    weight = (f - flipped_losses(loss, layer, s)).movedim(0, -1)
                else:
                    ratio = torch.exp(above.layer.sum_flips(above.x, _log_ratio(above.layer), above.a, above.s))
                    chosen, other = layer.probability(sign * a), layer.probability(-sign * a)
                    weight = f[..., None] * (1 - ratio) / (chosen + other * ratio)
            value = value + (sign * weight * carry(p)).sum(-1)
        return value


def _log_ratio(layer: BinaryLayer) -> Terms:
    """log P(sⱼ | flipped aⱼ) − log P(sⱼ | aⱼ)."""

    def terms(flipped: Tensor, a: Tensor, s: Tensor) -> Tensor:
        sign = 2 * s - 1
        return layer.noise.log_cdf(sign * flipped) - layer.noise.log_cdf(sign * a)

    return terms
