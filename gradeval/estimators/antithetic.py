"""Antithetic estimators: several dependent samples of each layer's states, each continued by samples of its own.

One of the samples, distributed as p(xᵏ | xᵏ⁻¹), is also the input of layer k + 1: a deep network costs O(L²) layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.estimators.surrogate import carry, check_samples, continue_path, leave_one_out, one_unit
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class Arm:
    """ARM, for every layer k with logits α = log F(a)/(1 − F(a)): [f(1[u > 1 − F(a)]) − f(1[u < F(a)])] (u − ½) ∇α.

    The second branch is distributed as p(xᵏ | xᵏ⁻¹): it is the input of layer k + 1. The first is continued by samples
    of its own.

    Source: Yin & Zhou, ICLR 2019, arXiv:1807.11143 (eq. 5 for one layer, sec. 3 for several).

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> Arm()(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, branches = inputs, []
        for k, layer in enumerate(network.layers):
            a = layer.preactivation(x)
            p = layer.probability(a)
            u = randomness.uniform(a.shape)
            x = layer.encode((u < p).to(p.dtype))
            other = continue_path(network.layers[k + 1 :], layer.encode((u > 1 - p).to(p.dtype)), randomness)
            branches.append((loss(other), u - 0.5, layer.noise.log_odds(a)))
        f = loss(x)
        for f_other, weight, logit in branches:
            f = f + ((f_other - f).detach()[..., None] * weight * carry(logit)).sum(-1)
        return f


@dataclass(frozen=True)
class Disarm:
    """DisARM, also U2G: ½ [f(b) − f(b̃)] (b − b̃) max(p, 1 − p) ∇α for every layer, p = F(a), α = log p/(1 − p).

    b = 1[u < p] and b̃ = 1[1 − u < p]. Only (b, b̃) enters, so b is drawn and then b̃ from its law given b:
    P(b̃ = 1 | b = 1) = max(0, 2p − 1)/p, P(b̃ = 1 | b = 0) = min(p, 1 − p)/(1 − p). Layer k + 1 takes b as its input.
    The head's gradient is the mean over the L + 1 ends.

    Source: Dong, Mnih & Tucker, NeurIPS 2020, arXiv:2006.10680, eq. 6; Yin et al. 2020,
    arXiv:2006.06448 (U2G).

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, Disarm()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, branches = inputs, []
        for k, layer in enumerate(network.layers):
            a = layer.preactivation(x)
            b, other, weight = antithetic_pair(layer.probability(a), layer.probability(-a), randomness)
            f_other = loss(continue_path(network.layers[k + 1 :], layer.encode(other), randomness))
            branches.append((f_other, weight, layer.noise.log_odds(a)))
            x = layer.encode(b)
        f = loss(x)
        value = torch.stack([f, *(f_other for f_other, _, _ in branches)]).mean(0)
        for f_other, weight, logit in branches:
            value = value + (f - f_other).detach() * (weight * carry(logit)).sum(-1)
        return value


@dataclass(frozen=True)
class BitFlip:
    """BitFlip-1: n [f(x | sᵢ = 1) − f(x | sᵢ = 0)] ∇F(aᵢ) for one unit i of every layer, chosen at random from its n.

    Two evaluations of f for each layer, as DisARM, but the variance stays bounded where F(a) is near 0 or 1. The path
    with the flipped unit is continued by samples of its own.

    Source: Kunes et al., AAAI 2023, arXiv:2208.06124.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, BitFlip()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, branches = inputs, []
        for k, layer in enumerate(network.layers):
            p = layer.probability(layer.preactivation(x))
            s = randomness.bernoulli(p)
            flipped, weight = _flip_of_one(s, randomness)
            f_flipped = loss(continue_path(network.layers[k + 1 :], layer.encode(flipped), randomness))
            branches.append((f_flipped, weight * carry(p)))
            x = layer.encode(s)
        f = loss(x)
        value = f
        for f_flipped, term in branches:
            value = value + (f - f_flipped).detach() * term.sum(-1)
        return value


@dataclass(frozen=True)
class Ugc:
    """Unbiased gradient variance clipping: for every unit DisARM's estimate, or BitFlip-1's where F(a) is extreme.

    Of n units those with min(p, 1 − p) < 1/(2n), p = F(a), take BitFlip-1's: there its factor n is below DisARM's
    1/(2 min(p, 1 − p)). Three evaluations of f for each layer; the head's gradient is that of DisARM.

    Source: Kunes et al., AAAI 2023, arXiv:2208.06124.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, Ugc()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, branches = inputs, []
        for k, layer in enumerate(network.layers):
            a = layer.preactivation(x)
            p, p_not = layer.probability(a), layer.probability(-a)
            b, other, weight = antithetic_pair(p, p_not, randomness)
            f_other = loss(continue_path(network.layers[k + 1 :], layer.encode(other), randomness))
            flipped, flip = _flip_of_one(b, randomness)
            f_flipped = loss(continue_path(network.layers[k + 1 :], layer.encode(flipped), randomness))
            extreme = (torch.minimum(p, p_not) < 1 / (2 * b.shape[-1])).to(p.dtype)
            both = (1 - extreme) * weight * carry(layer.noise.log_odds(a))
            branches.append((f_other, both.sum(-1), f_flipped, (extreme * flip * carry(p)).sum(-1)))
            x = layer.encode(b)
        f = loss(x)
        value = torch.stack([f, *(f_other for f_other, *_ in branches)]).mean(0)
        for f_other, both, f_flipped, flip in branches:
            value = value + (f - f_other).detach() * both + (f - f_flipped).detach() * flip
        return value


@dataclass(frozen=True)
class Arms:
    """ARMS with the Dirichlet copula: meanᵢ [f(xᵢ) − mean_{j≠i} f(xⱼ)] (sᵢ − p)/(1 − ρ) ∇α for every layer.

    s₁..s_K are samples of every unit with pairwise correlation ρ ≤ 0. For d ~ Dirichlet(1, …, 1) the (1 − dᵢ)^(K−1) are
    uniform and negatively dependent; the rarer state, of probability r = min(p, 1 − p), is taken where they are below
    r, and two samples both take it with probability max(0, 2 r^(1/(K−1)) − 1)^(K−1). K = 2 is DisARM. Layer
    k + 1 takes the first sample as its input; the head's gradient is the mean over all ends.

    Args:
        samples: K ≥ 2.

    Raises:
        GradevalError: there are fewer samples.

    Source: Dimitriev & Zhou, ICML 2021, arXiv:2105.14141, sec. 3 and 4.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> Arms(samples=3)(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    samples: int = 4

    def __post_init__(self) -> None:
        check_samples("arms", self.samples, 2)

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, branches = inputs, []
        for k, layer in enumerate(network.layers):
            a = layer.preactivation(x)
            p, p_not = layer.probability(a), layer.probability(-a)
            s, scale = negatively_dependent(p, p_not, self.samples, randomness)
            f_others = loss(continue_path(network.layers[k + 1 :], layer.encode(s[1:]), randomness))
            branches.append((f_others, ((s - p) * scale).detach(), layer.noise.log_odds(a)))
            x = layer.encode(s[0])
        f = loss(x)[None]
        value = torch.cat([f, *(f_others for f_others, _, _ in branches)]).mean(0)
        for f_others, weight, logit in branches:
            weight = (leave_one_out(torch.cat([f, f_others]).detach())[..., None] * weight).mean(0)
            value = value + (weight * carry(logit)).sum(-1)
        return value


def antithetic_pair(p: Tensor, p_not: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor, Tensor]:
    """Draw DisARM's pair: b = 1[u < p] and b̃ = 1[1 − u < p] for one uniform u.

    Args:
        p: the probabilities, any shape.
        p_not: 1 − p.
        randomness: where the states come from.

    Returns:
        b, b̃ and the weight ½ (b − b̃) max(p, 1 − p), each in the shape of p.

    Examples:
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> p = torch.tensor([0.5, 0.5])
        >>> b, other, _ = antithetic_pair(p, 1 - p, RandomDraws(generator("cpu", "an example")))
        >>> b + other
        tensor([1., 1.])
    """
    b = randomness.bernoulli(p)
    both, one = (2 * p - 1).clamp(min=0), torch.minimum(p, p_not)
    # clamped: 0/0 for a state that cannot be
    given = torch.where(b > 0.5, both / p.clamp(min=1e-300), one / p_not.clamp(min=1e-300))
    other = randomness.bernoulli(given)
    return b, other, (0.5 * (b - other) * torch.maximum(p, p_not)).detach()


def _flip_of_one(s: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor]:
    """States with one of n units flipped, chosen at random; and at that unit n σ, σ = 2s − 1, elsewhere 0."""
    chosen, sign = one_unit(s, randomness), 2 * s - 1
    return s - sign * chosen, s.shape[-1] * sign * chosen


def negatively_dependent(p: Tensor, p_not: Tensor, samples: int, randomness: Randomness) -> tuple[Tensor, Tensor]:
    """Draw ARMS's samples, by the Dirichlet copula.

    Args:
        p: the probabilities, any shape.
        p_not: 1 − p.
        samples: how many, at least 2.
        randomness: where the uniform variables come from.

    Returns:
        The states, [samples, ...], and 1/(1 − ρ) for their correlation ρ, in the shape of p.

    Examples:
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> p = torch.tensor([0.5, 0.5])
        >>> s, scale = negatively_dependent(p, 1 - p, 2, RandomDraws(generator("cpu", "an example"), p.dtype))
        >>> s.sum(0), scale
        (tensor([1., 1.]), tensor([0.5000, 0.5000]))
    """
    root = samples - 1
    d = -torch.log(randomness.uniform([samples, *p.shape]))
    u = (1 - d / d.sum(0)) ** root
    rarer = torch.minimum(p, p_not)
    s = (u < rarer).to(p.dtype)
    s = torch.where(p > p_not, 1 - s, s)
    both = (2 * rarer ** (1 / root) - 1).clamp(min=0) ** root
    # ρ = (both − r²)/(r (1 − r)); finite where r vanishes
    return s, (1 - rarer) / (1 - both / rarer.clamp(min=1e-300))
