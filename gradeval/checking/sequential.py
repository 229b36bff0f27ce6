"""A sequential test of a mean vector from independent replicates, and bounds that hold at every look at once.

A replicate is the mean of many draws (over a scrambled Sobol sequence: the replicates are independent and unbiased, and
have less variance than plain means; Owen, J. Complexity 14, 1998, doi:10.1006/jcom.1998.0487). The data are looked at
when every replicate has N, 2N, 4N, … draws. Look k is given the share 6/(π²k²) of the error rate α, so that all looks
there will ever be, whatever is done between them, err with a probability of at most α in all (the union bound; compare
Howard et al., Annals of Statistics 49, 2021, arXiv:1810.08240, whose bounds need known tails, which gradients of an
unknown estimator do not have). One look is Hotelling's T² test.

Assumed: means of a replicate are jointly normal, but for rare events, of which few replicates have any or none:
`rare_event_error` is for them. Student's interval over such replicates is the one that
L'Ecuyer, Nakayama, Owen & Tuffin (Confidence intervals for randomized quasi-Monte Carlo estimators, WSC 2023) find the
most reliable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import f as fisher
from scipy.stats import ncf

POWER = 0.99
FREEDOM = (
    12  # replicates less directions, at least: with fewer, T² has no power left, and beyond the replicates no level
)


def level_of_look(alpha: float, look: int) -> float:
    """The share of α that is spent at look 1, 2, …; the shares of all looks add up to α."""
    return alpha * 6 / (math.pi * look) ** 2


def rare_event_error(size: float, draws: int, level: float) -> float:
    """R √(2 log(1/level))/N, to be added to the standard errors of a mean of N draws: the floor of `mean_test`.

    An event of probability p that makes R of a draw is seen k times, k ~ Poisson(Np). With this floor T² rejects with
    probability ≤ level (to a factor of 1.3 at 1e-8), whatever Np, also where k is 0 and S shows nothing of it, as long
    as R is known. That needs one such event, and they are all seen from p = log(1/level)/N on. Of several sizes the
    largest counts: a mean over all draws would be lowered by ordinary noise in other directions.

    Args:
        size: R, the largest ‖g − g*‖ of a draw.
        draws: N.
        level: of the test.
    """
    return size * math.sqrt(2 * math.log(1 / level)) / draws


@dataclass(frozen=True)
class MeanTest:
    """What one look says of a mean μ.

    Attributes:
        mean: the estimate μ̂.
        rejected: whether μ = 0 is rejected at the level.
        radius: ‖μ̂ − μ‖ ≤ radius with a probability of at least 1 − level.
        detectable: the ‖μ‖ that would be rejected with probability POWER, in whatever direction.
        noise: E‖μ̂ − μ‖², the part of ‖μ̂‖² that is chance.
    """

    mean: Float[np.ndarray, " p"]
    rejected: bool
    radius: float
    detectable: float
    noise: float


def mean_test(replicates: Float[np.ndarray, "replicates p"], level: float, floor: float) -> MeanTest:
    """Hotelling's T² test of μ = 0, with directions that hardly vary (singular covariances too) taken care of.

    T² = μ̂ᵀ(S + floor² I)⁻¹μ̂, S the covariance of μ̂: the floor can only lower T², so the level holds. Since
    T² ≥ ‖μ̂‖²/(λ + floor²), λ the largest eigenvalue of S, a ball around μ̂ holds μ, and a bias of any direction is
    found with the power that the noncentral F distribution gives for ‖μ‖²/(λ + floor²). Where the replicates vary in
    more than their number less ``FREEDOM`` directions, nothing is rejected, and nothing is detectable: ∞.

    Args:
        replicates: independent, one a row.
        level: the false-alarm rate.
        floor: a standard error that is as good as none.
    """
    count, floor = len(replicates), max(floor, 1e-15)
    mean = replicates.mean(0)
    spread = (replicates - mean) / math.sqrt(count * (count - 1))
    variances, directions = np.linalg.eigh(spread.T @ spread)
    variances = variances.clip(min=0)
    largest = float(variances[-1]) + floor**2
    rank = max(1, int((variances > 1e-13 * largest).sum()))
    if rank > count - FREEDOM:
        return MeanTest(mean, False, math.inf, math.inf, float(variances.sum()))
    statistic = float(((directions.T @ mean) ** 2 / (variances + floor**2)).sum())
    critical, noncentral = _critical(level, rank, count)
    return MeanTest(
        mean,
        statistic > critical,
        math.sqrt(critical * largest),
        math.sqrt(noncentral * largest),
        float(variances.sum()),
    )


@cache
def _critical(level: float, rank: int, count: int) -> tuple[float, float]:
    """The critical T², and the noncentrality at which it is exceeded with probability POWER."""
    freedom = count - rank
    scale = rank * (count - 1) / freedom
    quantile = float(fisher.isf(level, rank, freedom))

    def missed(root: float) -> float:
        # far out the series for the probability underflows to NaN: it is zero there
        return float(np.nan_to_num(ncf.cdf(quantile, rank, freedom, root**2))) - (1 - POWER)

    root = brentq(missed, 0.1, 2 * math.sqrt(scale * quantile) + 10)
    return scale * quantile, root**2
