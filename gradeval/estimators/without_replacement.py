"""Two distinct joint states of each layer, sampled without replacement.

One of them, distributed as p(xᵏ | xᵏ⁻¹), is also the input of layer k + 1; the other is continued by samples of its
own: a deep network costs O(L²) layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.estimators.surrogate import carry, continue_path, first_taken, sample_path
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class SumAndSample:
    """Sum and sample: (1 − p(s)) [f(t) − f(s)] ∇log p(t) for states s ~ p of every layer and others, t ~ p given t ≠ s.

    E[f] = E[p(s) f(s) + (1 − p(s)) f(t)]: the state s is summed, t stands for the rest, and f(s) is the baseline.

    Source: Kool, van Hoof & Welling, ICLR 2020, arXiv:2002.06043, after Liu et al., AISTATS 2019, arXiv:1810.04777 (two
    states).

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, SumAndSample()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        f, pairs = _distinct_pairs(network, inputs, loss, randomness)
        value = torch.stack([f + rest * (f_other - f) for f_other, rest, *_ in pairs]).mean(0)
        for f_other, rest, _, _, log_other in pairs:
            value = value + rest * (f_other - f).detach() * carry(log_other)
        return value


@dataclass(frozen=True)
class UnorderedSet:
    """Unordered set: [f(s) − f(t)] (∇log p(s) − ∇log p(t)) (1 − p(s))(1 − p(t))/(2 − p(s) − p(t)) for two states s ≠ t.

    The mean of sum-and-sample over the two orders in which s and t may have been drawn, so it varies less.

    Source: Kool, van Hoof & Welling, ICLR 2020, arXiv:2002.06043 (two states).

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, UnorderedSet()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        f, pairs = _distinct_pairs(network, inputs, loss, randomness)
        # clamped: both are 0 where no other state can be
        shares = [rest / (rest + rest_other).clamp(min=1e-300) for _, rest, rest_other, _, _ in pairs]
        value = torch.stack([f + w * (pair.f_other - f) for pair, w in zip(pairs, shares, strict=True)]).mean(0)
        for (f_other, _, rest_other, log_p, log_other), share in zip(pairs, shares, strict=True):
            value = value + share * rest_other * (f - f_other).detach() * carry(log_p - log_other)
        return value


class _Pair(NamedTuple):
    """A layer's sampled state s, and another one, t.

    Attributes:
        f_other: f at the end of the path through t.
        rest, rest_other: 1 − p(s) and 1 − p(t), constants.
        log_p, log_other: log p(s) and log p(t).
    """

    f_other: Tensor
    rest: Tensor
    rest_other: Tensor
    log_p: Tensor
    log_other: Tensor


def _distinct_pairs(
    network: StochasticBinaryNetwork, inputs: Tensor, loss: PointLoss, randomness: Randomness
) -> tuple[Tensor, list[_Pair]]:
    """f at the end of a sampled path, and a pair of states of every layer."""
    steps, x = sample_path(network, inputs, randomness)
    pairs = []
    for k, (layer, _, a, p, s) in enumerate(steps):
        other = _another(layer, a.detach(), p.detach(), s, randomness)
        f_other = loss(continue_path(network.layers[k + 1 :], layer.encode(other), randomness))
        # clamped: where no other state can be, t cannot
        logs = [layer.log_prob(state, a).clamp(min=-1e300) for state in (s, other)]
        pairs.append(_Pair(f_other, *(-torch.expm1(log).detach() for log in logs), *logs))
    return loss(x), pairs


def _another(layer: BinaryLayer, a: Tensor, p: Tensor, s: Tensor, randomness: Randomness) -> Tensor:
    """Sample states with their probabilities given that they are not s.

    Unit j is the first that differs from s with probability P(¬sⱼ)/(1 − Πₗ P(sₗ)), l ≥ j, if none before it does; the
    units after the first are free.
    """
    sign = 2 * s - 1
    log_same = layer.noise.log_cdf(sign * a).flip(-1).cumsum(-1).flip(-1)
    differs = layer.probability(-sign * a) / (-torch.expm1(log_same)).clamp(min=1e-300)
    first = first_taken(randomness.bernoulli(differs[..., :-1].clamp(max=1)))
    after = first.cumsum(-1) - first
    free = torch.cat([s[..., :1], randomness.bernoulli(p[..., 1:])], -1)  # no unit is before the first
    return torch.where(after > 0.5, free, s - sign * first)
