"""Path sample-analytic: sample one path, then sum out every single unit's flip along it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import carry, flipped_losses
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class PathSampleAnalytic:
    """PSA: for a sampled path with σ = 2s − 1, every layer gets Σᵢ σᵢ uᵢ ∇F(aᵢ), where uᵢ = f(x) − f(x with i flipped)
    in the last layer and uᵢ = Σⱼ σⱼ [F(aⱼ) − F(aⱼ with i flipped)] uⱼ, j over the layer above, in the others.

    The head's gradient is Rao–Blackwellised over single units: meanᵢ [P(sᵢ) ∇f(x) + (1 − P(sᵢ)) ∇f(x with i flipped)].

    The sums over j are exact to rounding on small nets; on large ones, of maps that are affine by structure, they are
    products of separable terms where that is cheaper (`gradeval.model.flips`).

    Args:
        tolerance: of those, relative to F′(0) δ Σⱼ |uⱼ Mⱼᵢ|; 0 is 1e-12 in double and 1e-5 in single precision.

    Raises:
        GradevalError: the tolerance is negative, or 1 or more.

    Source: Shekhovtsov, Yanush & Flach, NeurIPS 2020, arXiv:2006.03143.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> round(exact_moments(problem, PathSampleAnalytic()).relative_bias()["all"], 3)
        0.022
    """

    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise GradevalError(f"psa: tolerance must be at least 0 and below 1, found {self.tolerance}.")

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, path = inputs, []
        for layer in network.layers:
            a = layer.preactivation(x)
            p = layer.probability(a)
            s = randomness.bernoulli(p)
            path.append((layer, x, a, p, s))
            x = layer.encode(s)
        f = loss(x)
        f_flipped = flipped_losses(loss, layer, s)  # [units, points]
        stay = torch.where(s > 0.5, p, 1 - p).detach().movedim(-1, 0)
        value = (stay * f + (1 - stay) * f_flipped).mean(0)
        with torch.no_grad():
            u = (f - f_flipped).movedim(0, -1)
        for layer, x, a, p, s in reversed(path):
            u = (2 * s - 1) * u
            value = value + (u * carry(p)).sum(-1)
            if layer is not network.layers[0]:
                u = layer.flip_response(x, a, u, self.tolerance or None)
        return value
