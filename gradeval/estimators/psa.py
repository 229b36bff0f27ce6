"""Path sample-analytic: sample one path, then sum out every single unit's flip along it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import Step, carry, flipped_losses, sample_path
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
        steps, x = sample_path(network, inputs, randomness)
        value, u = _end_of_path(steps[-1], loss(x), loss)
        for layer, x, a, p, s in reversed(steps):
            u = (2 * s - 1) * u
            value = value + (u * carry(p)).sum(-1)
            if layer is not network.layers[0]:
                u = layer.flip_response(x, a, u, self.tolerance or None)
        return value


@dataclass(frozen=True)
class SampleAnalytic:
    """SA: every layer gets Σᵢ σᵢ uᵢ ∇F(aᵢ)/(2 P(sᵢ)), where uᵢ = f(x) − f(x with i flipped) in the last layer and
    uᵢ = Σⱼ max(0, σⱼ [F(aⱼ) − F(aⱼ with i flipped)]) uⱼ/P(sⱼ), j over the layer above, in the others.

    The maximum over P(sⱼ) is the chance that the flip of i makes j flip, given sⱼ, where the noise of j stays as it is.
    With 1/(2 P(sᵢ)) the mean over sᵢ takes the flip from either side, as the trapezoidal rule does: unbiased where the
    layer above has at most two units, less biased than PSA where it has few; but it varies more. The head's gradient is
    PSA's.

    Source: the method SA with t = 0 in the code of Shekhovtsov, Yanush & Flach, NeurIPS 2020, arXiv:2006.03143,
    https://github.com/shekhovt/PSA-Neurips2020.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, SampleAnalytic()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        def caused(flipped: Tensor, a: Tensor, sign: Tensor, u: Tensor) -> Tensor:
            return (sign * (network.noise.cdf(a) - network.noise.cdf(flipped))).clamp(min=0) * u

        steps, x = sample_path(network, inputs, randomness)
        value, u = _end_of_path(steps[-1], loss(x), loss)
        for layer, x, a, p, s in reversed(steps):
            sign = 2 * s - 1
            # clamped: an impossible state, as enumeration meets it
            u = u / layer.probability(sign * a).detach().clamp(min=1e-300)
            value = value + 0.5 * (sign * u * carry(p)).sum(-1)
            if layer is not network.layers[0]:
                u = layer.sum_flips(x, caused, a, sign, u)
        return value


def _end_of_path(step: Step, f: Tensor, loss: PointLoss) -> tuple[Tensor, Tensor]:
    """f at the last states, averaged over flips of single units as the head takes it; and uᵢ of these flips."""
    layer, _, _, p, s = step
    f_flipped = flipped_losses(loss, layer, s)  # [units, points]
    stay = torch.where(s > 0.5, p, 1 - p).detach().movedim(-1, 0)
    value = (stay * f + (1 - stay) * f_flipped).mean(0)
    return value, (f - f_flipped).detach().movedim(0, -1)
