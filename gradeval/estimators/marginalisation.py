"""Estimators that sum out one unit at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.estimators.surrogate import Step, carry, continue_path, flipped_losses, noise_given_state, sample_path
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
        return _with_fixed_noises(network, inputs, loss, randomness, lambda step: 2 * step.s - 1)


@dataclass(frozen=True)
class StochasticAD:
    """Stochastic derivatives: Σ over units (k, i) with sᵏᵢ = 0 of [f(x | sᵏᵢ = 1) − f(x)] ∇F(aᵏᵢ)/(1 − F(aᵏᵢ)).

    The derivative of F(aᵏᵢ) from the right: a unit that is off jumps on with the rate F'/(1 − F), one that is on stays.
    All noises stay fixed (coupling by inversion), as in RAM, which is the mean over sᵏᵢ. All jumps are summed, none is
    pruned. The package differentiates by one scalar parameter, from the left where it lowers F(aᵏᵢ); here all is from
    the right.

    Source: Arya, Schauer, Schäfer & Rackauckas, NeurIPS 2022, arXiv:2210.08572.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2", stage=0, points=4)
        >>> exact_moments(problem, StochasticAD()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        def weight(step: Step) -> Tensor:
            # clamped: 0/0 for a state that cannot be
            return (step.s - 1) / step.layer.probability(-step.a).clamp(min=1e-300)

        return _with_fixed_noises(network, inputs, loss, randomness, weight)


@dataclass(frozen=True)
class MeasureValued:
    """Measure-valued derivatives: Σ over units (k, i) of [f(x | sᵏᵢ = 1) − f(x | sᵏᵢ = 0)] ∇F(aᵏᵢ).

    F(a) δ₁ + (1 − F(a)) δ₀ has the derivative (δ₁ − δ₀) ∇F(a): the sampled path is one of the two, the other is one
    phantom a unit, whose later layers are sampled afresh. For binary units it is IndeCateR with one sample, too. With
    one layer it is RAM and LEG.

    Source: Mohamed et al., JMLR 21, 2020, arXiv:1906.10652, sec. 6; IndeCateR: De Smet et al., NeurIPS 2023,
    arXiv:2311.12569.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, MeasureValued()).relative_bias()["all"] < 1e-12
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

        def follow(k: int, x: Tensor) -> Tensor:
            return continue_path(network.layers[k + 1 :], x, randomness)

        return _summed_flips(steps, loss(x), loss, follow, lambda step: 2 * step.s - 1)


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


def _with_fixed_noises(
    network: StochasticBinaryNetwork,
    inputs: Tensor,
    loss: PointLoss,
    randomness: Randomness,
    weight: Callable[[Step], Tensor],
) -> Tensor:
    """The surrogate of all flips along a sampled path, where the noises of layers 2..L are drawn given their states."""
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x)
    noises = [noise_given_state(layer, a, s, randomness.uniform(a.shape)) for layer, _, a, _, s in steps[1:]]

    def follow(k: int, x: Tensor) -> Tensor:
        for above, z in zip(network.layers[k + 1 :], noises[k:], strict=True):
            x = above.encode((above.preactivation(x) >= z).to(x.dtype))
        return x

    return _summed_flips(steps, f, loss, follow, weight)


def _summed_flips(
    steps: list[Step],
    f: Tensor,
    loss: PointLoss,
    follow: Callable[[int, Tensor], Tensor],
    weight: Callable[[Step], Tensor],
) -> Tensor:
    """f + Σ over units of weight [f(x) − f(x with the unit flipped)] carry(p); ``follow`` continues from layer k."""
    value = f
    for k, step in enumerate(steps):
        with torch.no_grad():
            if k + 1 == len(steps):
                flipped = flipped_losses(loss, step.layer, step.s)  # [units, points]
            else:
                flipped = loss(follow(k, step.layer.encode(step.layer.flip(step.s))))
            gain = (f - flipped).movedim(0, -1)
            weights = weight(step)
        value = value + (weights * gain * carry(step.p)).sum(-1)
    return value
