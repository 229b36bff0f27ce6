"""Estimators for the bound of K samples of a variational autoencoder. f = −log (1/K) Σₖ wₖ has the gradient of the sum
over k of local problems: f as a function of sample k alone, the others fixed. Each is given a baseline of its own.

They need the K losses −log wₖ, and are defined for `gradeval.model.elbo.MultiSampleBound` only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.antithetic import antithetic_pair, negatively_dependent
from gradeval.estimators.surrogate import carry, check_samples, leave_one_out
from gradeval.model.elbo import SampleLosses
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class Vimco:
    """VIMCO: Σₖ [f(w₁…w_K) − f(w₁…ŵₖ…w_K)] ∇log q(sₖ|x), ŵₖ the geometric mean of the other weights; K ≥ 2.

    The K samples are states of one layer of K copies of the units, whose bound is a loss like any other: so VIMCO is
    REINFORCE for it with a baseline for each copy, which f with that copy's weight replaced gives.

    Source: Mnih & Rezende, ICML 2016, arXiv:1602.06725, eq. 7, 8 and 10.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("vae", units=2, points=2, samples=3)
        >>> exact_moments(problem, Vimco()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        bound, layer = _bound(loss, 2), network.layers[0]
        a = layer.preactivation(inputs)
        s = randomness.bernoulli(layer.probability(a))
        losses = bound.each(layer.encode(s))
        f = bound.joined(losses)
        with torch.no_grad():
            others = (losses.sum(-1, keepdim=True) - losses) / (bound.samples - 1)
            gain = f[..., None] - bound.with_one_replaced(losses, others)
        return f + (gain * carry(_log_probs(layer, s, a, bound.samples))).sum(-1)


@dataclass(frozen=True)
class LocalRloo:
    """RLOO for every sample k of the bound: Σₖ meanᵢ [fₖ(sₖᵢ) − mean_{j≠i} fₖ(sₖⱼ)] ∇log q(sₖᵢ|x), i, j ≤ M.

    M independent sets of K samples are drawn. fₖ is f with the others of one set fixed; it is averaged over the sets.

    Args:
        samples: M ≥ 2.

    Raises:
        GradevalError: there are fewer samples.

    Source: as `LocalArms`, with independent samples (Dimitriev & Zhou, ICML 2021, arXiv:2105.14141).

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("vae", units=2, points=2, samples=2)
        >>> exact_moments(problem, LocalRloo(samples=2)).relative_bias()["all"] < 1e-12
        True
    """

    samples: int = 2

    def __post_init__(self) -> None:
        check_samples("local-rloo", self.samples, 2)

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        bound, layer = _bound(loss), network.layers[0]
        a = layer.preactivation(inputs)
        s = randomness.bernoulli(layer.probability(a).expand(self.samples, *a.shape))
        losses = bound.each(layer.encode(s))
        gain = leave_one_out(_local(bound, losses))
        log_probs = _log_probs(layer, s, a.expand(s.shape), bound.samples)
        return (bound.joined(losses) + (gain * carry(log_probs)).sum(-1)).mean(0)


@dataclass(frozen=True)
class LocalDisarm:
    """DisARM for every sample k of the bound: Σₖ ½ [fₖ(bₖ) − fₖ(b̃ₖ)] (bₖ − b̃ₖ) max(p, 1 − p) ∇α, as in `Disarm`.

    K antithetic pairs (bₖ, b̃ₖ) are drawn. fₖ is f with the other samples fixed: it is the mean of that where they are
    the b and that where they are the b̃. All 2K weights are evaluated once.

    Source: Dong, Mnih & Tucker, NeurIPS 2020, arXiv:2006.10680, the section on multi-sample bounds.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("vae", units=2, points=2, samples=2)
        >>> exact_moments(problem, LocalDisarm()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        bound, layer = _bound(loss), network.layers[0]
        a = layer.preactivation(inputs)
        b, other, weight = antithetic_pair(layer.probability(a), layer.probability(-a), randomness)
        losses = bound.each(layer.encode(torch.stack([b, other])))
        ends = _local(bound, losses)
        term = (weight * carry(layer.noise.log_odds(a))).unflatten(-1, (bound.samples, -1)).sum(-1)
        return bound.joined(losses).mean(0) + ((ends[0] - ends[1]) * term).sum(-1)


@dataclass(frozen=True)
class LocalArms:
    """ARMS for every sample k of the bound: Σₖ meanᵢ [fₖ(sₖᵢ) − mean_{j≠i} fₖ(sₖⱼ)] (sₖᵢ − p)/(1 − ρ) ∇α, i, j ≤ M.

    For every k, M samples are drawn that depend on each other negatively, as in `Arms`. fₖ is as in `LocalRloo`.

    Args:
        samples: M ≥ 2; 2 is `LocalDisarm`.

    Raises:
        GradevalError: there are fewer samples.

    Source: Dimitriev & Zhou, ICML 2021, arXiv:2105.14141, the section on the multi-sample bound.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("vae", units=2, points=4, samples=2)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> LocalArms(samples=3)(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    samples: int = 2

    def __post_init__(self) -> None:
        check_samples("local-arms", self.samples, 2)

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        bound, layer = _bound(loss), network.layers[0]
        a = layer.preactivation(inputs)
        p = layer.probability(a)
        s, scale = negatively_dependent(p, layer.probability(-a), self.samples, randomness)
        losses = bound.each(layer.encode(s))
        weight = ((s - p) * scale).detach().unflatten(-1, (bound.samples, -1))
        weight = (leave_one_out(_local(bound, losses))[..., None] * weight).mean(0).flatten(-2)
        return bound.joined(losses).mean(0) + (weight * carry(layer.noise.log_odds(a))).sum(-1)


def _bound(loss: PointLoss, least: int = 1) -> SampleLosses:
    """The loss, where it is a bound of at least so many samples."""
    if not isinstance(loss, SampleLosses) or loss.samples < least:
        raise GradevalError(
            f"needs a bound of K ≥ {least} samples: a problem with the loss MultiSampleBound(K), as "
            "`gradeval run vae --samples 3` has."
        )
    return loss


def _log_probs(layer: BinaryLayer, s: Tensor, a: Tensor, samples: int) -> Tensor:
    """log q(sₖ|x) of every sample, [..., points, K]."""
    return layer.log_prob(s.unflatten(-1, (samples, -1)), a.unflatten(-1, (samples, -1)))


def _local(bound: SampleLosses, losses: Tensor) -> Tensor:
    """fₖ(sₖᵢ) for the samples of M sets, [M, points, K]: the mean over the sets that the others are taken from."""
    with torch.no_grad():
        return bound.with_one_replaced(losses, losses[:, None]).mean(1)
