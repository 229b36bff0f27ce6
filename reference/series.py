"""log(2 cosh(z/2)) as a finite sum of cosines, which are easy to expect, with an error that is proven.

softplus(z) = z/2 + h(z) with h(z) = log(2 cosh(z/2)), h″(z) = q(z) = ¼ sech²(z/2), whose Fourier transform is
q̂(t) = πt/sinh πt. Repeated with the period 2T, q becomes Q(z) = 1/(2T) + (1/T) Σₖ q̂(tₖ) cos(tₖ z), tₖ = πk/T
(Poisson's formula). Integrated twice from 0, where h = log 2 and h′ = 0:

    H(z) = log 2 + z²/(4T) + Σₖ cₖ (1 − cos tₖz),   cₖ = q̂(tₖ)/(T tₖ²) = π/(T tₖ sinh πtₖ).

*Error of the period.* q(z) ≤ e^−|z|, so 0 ≤ Q(z) − q(z) ≤ Σ_{m≥1} e^−2Tm (e^z + e^−z) = 2 cosh(z)/(e^2T − 1).
Integrated once and twice: |H′ − h′| ≤ 2 sinh(R)/(e^2T − 1) and |H − h| ≤ 2 (cosh(R) − 1)/(e^2T − 1) on |z| ≤ R, both
below e^(R−2T)/(1 − e^−2T).

*Error of the rest*, k > K: sinh x ≥ ½ eˣ (1 − e^−2x) and tₖ ≥ t_{K+1} make Σ cₖtₖ a geometric series below
ρ = 2π e^(−π t_{K+1}) / (T (1 − e^(−π²/T)) (1 − e^(−2π t_{K+1}))). In H′ the rest is below ρ, in H below 2ρ/t_{K+1}.

*Range.* z = b + Σⱼ wⱼsⱼ is at most Z = max |z| over all states. With many units it hardly ever leaves
|z| ≤ R = |E z| + u + maxⱼ|wⱼ|, where by Hoeffding's inequality P(|z − E z| > u + maxⱼ|wⱼ|) ≤ 2 exp(−2u²/Σw²), also
where one unit's state is given. Beyond R the errors of H and H′ are at most B = 2 + L/6 + Z + Z²/72 (for T ≥ 18), so u
is taken such that 2B exp(−2u²/Σw²) = e^−L: that much is added to both errors.

With T = (R + L)/2 every part is about e^−L. In finance this is the COS method (Fang & Oosterlee 2008,
doi:10.1137/080718061); the formulas with rigorous errors are derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradeval.errors import GradevalError

MOST_TERMS = 2**27  # of all outputs together: 1 GiB
DEPTH = 37.0  # L: e^−37 = 9e-17 is below the rounding of double precision


@dataclass(frozen=True)
class Series:
    """H of several outputs, each with a period and a number of terms of its own; the terms of all are in one list.

    Attributes:
        half_period: T of each output, [outputs].
        frequency: tₖ, [terms].
        coefficient: cₖ, [terms].
        output: the output that a term belongs to, [terms].
        value_error: a bound of E|H − h|, [outputs].
        slope_error: a bound of E|H′ − h′|, [outputs].
    """

    half_period: Float[Tensor, " outputs"]
    frequency: Float[Tensor, " terms"]
    coefficient: Float[Tensor, " terms"]
    output: Int[Tensor, " terms"]
    value_error: Float[Tensor, " outputs"]
    slope_error: Float[Tensor, " outputs"]

    @classmethod
    def of(
        cls,
        weight: Float[Tensor, "outputs units"],
        offset: Float[Tensor, " outputs"],
        mean: Float[Tensor, " outputs"],
        depth: float = DEPTH,
    ) -> Series:
        """The series that is exact to rounding for z = b + Σⱼ wⱼsⱼ of independent binary sⱼ.

        Args:
            weight: w of every output, [outputs, units].
            offset: b, [outputs].
            mean: the largest |E z| that occurs, [outputs].
            depth: L = −log of the error aimed at.

        Returns:
            The series, with the errors that it has in truth.

        Raises:
            GradevalError: a range is so large that too many terms would be needed.

        Examples:
            >>> series = Series.of(torch.ones(1, 3), torch.zeros(1), torch.ones(1))
            >>> z = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
            >>> h = torch.log(2 * torch.cosh(z / 2))
            >>> bool((series(z, 0) - h).abs().max() < 1e-13)
            True
        """
        weight, offset, mean = (x.detach().double() for x in (weight, offset, mean))
        furthest = torch.maximum(offset + weight.clamp(min=0).sum(1), -offset - weight.clamp(max=0).sum(1)).abs()
        beyond = 2 + depth / 6 + furthest + furthest**2 / 72
        deviation = ((weight**2).sum(1) * (depth + torch.log(2 * beyond)) / 2).sqrt()
        likely = mean + deviation + weight.abs().amax(1)
        reach, cut = torch.minimum(furthest, likely), likely < furthest
        half = (reach + max(depth, 36.0)) / 2
        terms = (half * (depth + torch.log1p(half)) / math.pi**2).ceil()
        if not bool(terms.sum() < MOST_TERMS):
            raise GradevalError(
                f"the head's weights are too large for the transform: the outputs reach {float(furthest.max()):.3g} "
                f"and would need {float(terms.sum()):.3g} cosines; the limit is {MOST_TERMS:.3g}."
            )
        counts = terms.long()
        output = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        first = counts.cumsum(0) - counts
        number = (torch.arange(len(output), device=counts.device) - first[output] + 1).double()
        frequency = math.pi * number / half[output]
        next_one = math.pi * (terms + 1) / half
        alias = torch.exp(reach - 2 * half) / (1 - torch.exp(-2 * half))
        rest = 2 * math.pi * torch.exp(-math.pi * next_one) / half
        rest = rest / ((1 - torch.exp(-(math.pi**2) / half)) * (1 - torch.exp(-2 * math.pi * next_one)))
        missed = cut * math.exp(-depth)
        coefficient = math.pi / (half[output] * frequency * torch.sinh(math.pi * frequency))
        errors = alias + 2 * rest / next_one + missed, alias + rest + missed
        return cls(half, frequency, coefficient, output, *errors)

    def __call__(self, z: Float[Tensor, " points"], output: int) -> Float[Tensor, " points"]:
        """H of one output.

        Args:
            z: its values, [points].
            output: its number.

        Returns:
            H(z), [points].
        """
        mine = self.output == output
        cosines = torch.cos(self.frequency[mine] * z[:, None])
        return math.log(2) + z**2 / (4 * self.half_period[output]) + (1 - cosines) @ self.coefficient[mine]
