"""A sequential test of a mean vector from independent replicates, and bounds that hold at every look at once.

A replicate is the mean of many draws (over a scrambled Sobol sequence: the replicates are independent and unbiased, and
have less variance than plain means; Owen, J. Complexity 14, 1998, doi:10.1006/jcom.1998.0487). The data are looked at
when every replicate has N, 2N, 4N, … draws. Look k is given the share 6/(π²k²) of the error rate α, so that all looks
there will ever be, whatever is done between them, err with a probability of at most α in all (the union bound; compare
Howard et al., Annals of Statistics 49, 2021, arXiv:1810.08240, whose bounds need known tails, which gradients of an
unknown estimator do not have). One look is Hotelling's T² test.

The means of a replicate are assumed to be jointly normal, except for rare events, which only few replicates see:
`rare_event_error` allows for those. Student's interval over such replicates is the one that
L'Ecuyer, Nakayama, Owen & Tuffin (Confidence intervals for randomized quasi-Monte Carlo estimators, WSC 2023) find the
most reliable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.stats import f as fisher

from gradeval.analysis.roots import crossing
from gradeval.analysis.statistics import noncentral_f_cdf

POWER = 0.99
# Replicates less directions, at least: with fewer, T² has no power left, and beyond the replicates no level.
FREEDOM = 12


def level_of_look(alpha: float, look: int) -> float:
    """The share of the error rate that one look may spend, 6α/(πk)²; the shares of all looks add up to α.

    Args:
        alpha: the error rate α of all looks together.
        look: its number k, from 1.

    Returns:
        The level of that look's test.

    Examples:
        >>> round(level_of_look(0.05, 1), 4), round(sum(level_of_look(0.05, k) for k in range(1, 10_000)), 4)
        (0.0304, 0.05)
    """
    return alpha * 6 / (math.pi * look) ** 2


def rare_event_error(size: float, draws: int, level: float) -> float:
    """The standard error R √(2 log(1/level))/N that rare events add to a mean of N draws: the floor of `mean_test`.

    An event of probability p that makes R of a draw is seen k times, k ~ Poisson(Np). With this floor T² rejects with
    probability ≤ level (to a factor of 1.3 at 1e-8) for every Np, even where k is 0 and the replicates show nothing of
    the event, as long as R is known. R is known once such an event was seen; with p ≥ log(1/level)/N it is seen with
    probability 1 − level. Of several sizes the largest counts: a mean over all draws would be lowered by ordinary noise
    in other directions.

    Args:
        size: R, the largest ‖g − g*‖ of a draw.
        draws: N.
        level: of the test.

    Returns:
        The standard error, in the unit of ``size``.

    Examples:
        >>> round(rare_event_error(size=10.0, draws=1000, level=1e-6), 4)
        0.0526
    """
    return size * math.sqrt(2 * math.log(1 / level)) / draws


@dataclass(frozen=True)
class MeanTest:
    """What one look says about a mean μ.

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
    """Hotelling's T² test of μ = 0, also where the replicates hardly vary in some directions, or not at all.

    T² = μ̂ᵀ(S + floor² I)⁻¹μ̂, where S is the covariance of μ̂: the floor can only lower T², so the level holds. Let λ be
    the largest eigenvalue of S. Since T² ≥ ‖μ̂‖²/(λ + floor²), a ball around μ̂ contains μ, and a bias in any direction
    is found with the power that the noncentral F distribution gives for ‖μ‖²/(λ + floor²). Where the replicates vary
    in more directions than their number less ``FREEDOM``, nothing is rejected, and radius and detectable are infinite.

    Args:
        replicates: [replicates, p], independent, one a row.
        level: the false-alarm rate.
        floor: a standard error that is as good as none, in the unit of the replicates.

    Returns:
        What this look says about μ.

    Examples:
        >>> replicates = np.random.default_rng(0).normal(size=(64, 3))
        >>> bool(mean_test(replicates, 1e-6, 0.0).rejected), bool(mean_test(replicates + 1.5, 1e-6, 0.0).rejected)
        (False, True)

    Source: T. W. Anderson, An Introduction to Multivariate Statistical Analysis, 3rd ed., Wiley 2003, ch. 5.
    """
    count, floor = len(replicates), max(floor, 1e-15)
    mean = replicates.mean(0)
    spread = (replicates - mean) / math.sqrt(count * (count - 1))
    variances, directions = _principal(spread)
    largest = float(variances[-1]) + floor**2
    rank = max(1, int((variances > 1e-13 * largest).sum()))
    if rank > count - FREEDOM:
        return MeanTest(mean, False, math.inf, math.inf, float(variances.sum()))
    inside = directions.T @ mean
    statistic = float((inside**2 / (variances + floor**2)).sum())
    if len(variances) < len(mean):
        statistic += float(((mean - directions @ inside) ** 2).sum()) / floor**2
    critical, noncentral = _critical(level, rank, count)
    return MeanTest(
        mean,
        statistic > critical,
        math.sqrt(critical * largest),
        math.sqrt(noncentral * largest),
        float(variances.sum()),
    )


def _principal(
    spread: Float[np.ndarray, "replicates p"],
) -> tuple[Float[np.ndarray, " directions"], Float[np.ndarray, "p directions"]]:
    """The eigenvalues of spreadᵀ spread, ascending, and its eigenvectors; without those of zero where p is large."""
    if len(spread) >= spread.shape[1]:
        variances, directions = np.linalg.eigh(spread.T @ spread)
        return variances.clip(min=0), directions
    _, roots, rows = np.linalg.svd(spread, full_matrices=False)
    return roots[::-1] ** 2, rows[::-1].T


@cache
def _critical(level: float, rank: int, count: int) -> tuple[float, float]:
    """The critical T², and the noncentrality at which it is exceeded with probability POWER."""
    freedom = count - rank
    scale = rank * (count - 1) / freedom
    quantile = float(fisher.isf(level, rank, freedom))

    def found(root: float) -> float:
        """How much the power is above `POWER`."""
        return (1 - POWER) - noncentral_f_cdf(quantile, rank, freedom, root**2)

    root = crossing(found, 0.1, 2 * math.sqrt(scale * quantile) + 10)
    return scale * quantile, root**2 if root < math.inf else math.inf
