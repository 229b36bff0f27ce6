"""From streamed moments to estimates with intervals and tests. Arrays in, numbers out.

For one layer with P parameters: b̂ = mean over n draws of g − g*, Σ̂ the draws' sample covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

Array = np.ndarray

LEVEL = 0.95
FAMILY_ALPHA = 0.01  # family-wise error rate of the verdicts of one report
POWER = 0.95
ROUNDING = 1e-6  # a bias in directions without variance counts when above this share of ‖g*‖
DRAWS_PER_DIMENSION = 10  # Hotelling's T² where n is at least this many times the dimension


@dataclass(frozen=True)
class Interval:
    """An estimate with a 95 % confidence interval."""

    estimate: float
    low: float
    high: float

    def __truediv__(self, scale: float) -> Interval:
        """All three divided by ``scale``; NaN where the scale is zero."""
        if scale == 0:
            return Interval(math.nan, math.nan, math.nan)
        return Interval(self.estimate / scale, self.low / scale, self.high / scale)

    def map(self, function: Callable[[float], float]) -> Interval:
        """An increasing function of all three."""
        return Interval(function(self.estimate), function(self.low), function(self.high))


def mean_interval(mean: float, standard_error: float, n: int) -> Interval:
    """Student's interval of a mean."""
    half = _t(n) * standard_error
    return Interval(mean, mean - half, mean + half)


def positive_mean_interval(mean: float, standard_error: float, n: int) -> Interval:
    """Student's interval of the logarithm of a positive mean (delta method), mapped back."""
    if not mean > 0 or standard_error == 0:
        return Interval(mean, mean, mean)
    half = _t(n) * standard_error / mean
    return Interval(mean, mean * math.exp(-half), mean * math.exp(half))


def _t(n: int) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2, max(n - 1, 1)))


def bias_interval(bias: Array, covariance: Array, n: int) -> Interval:
    """‖b‖ with an interval that is honest when b = 0.

    ‖b̂‖² is biased upward by tr Σ/n, so the estimate is √max(0, ‖b̂‖² − tr Σ̂/n). The interval holds all θ = ‖b‖ that a
    two-sided test of ‖b‖ = θ does not reject; under it ‖b̂‖² is a quadratic form of a Gaussian with cumulants
    κ₁ = tr Σ/n + θ², κ₂ = 2 tr Σ²/n² + 4θ² d'Σd/n, κ₃ = 8 tr Σ³/n³ + 24θ² d'Σ²d/n², d the direction of b̂, whose
    distribution is approximated by a shifted χ² with the same three cumulants (Imhof, Biometrika 48, 1961,
    doi:10.1093/biomet/48.3-4.419, sec. 3).
    """
    observed = float(bias @ bias)
    trace = float(np.trace(covariance))
    if trace <= 0 or observed == 0:
        return Interval(math.sqrt(observed), math.sqrt(observed), math.sqrt(observed))
    d = bias / math.sqrt(observed)
    along = covariance @ d
    # tr Σ̂² exceeds tr Σ² by about (tr Σ)²/n: the unbiased form for Gaussian draws, kept within its possible range
    square = float((covariance**2).sum())
    if n > 2:
        square = (n - 1) ** 2 / ((n + 1) * (n - 2)) * (square - trace**2 / (n - 1))
    square = min(max(square, trace**2 / len(bias)), trace**2)
    cube = max(float(np.einsum("ij,jk,ki->", covariance, covariance, covariance)), square**2 / trace)
    variance_along, square_along = float(d @ along), float(along @ along)

    def cdf(theta: float) -> float:
        k1 = trace / n + theta**2
        k2 = 2 * square / n**2 + 4 * theta**2 * variance_along / n
        k3 = 8 * cube / n**3 + 24 * theta**2 * square_along / n**2
        freedom = 8 * k2**3 / k3**2
        return float(stats.chi2.cdf(freedom + (observed - k1) * math.sqrt(2 * freedom / k2), freedom))

    tail = (1 - LEVEL) / 2
    farthest = math.sqrt(observed) + 20 * math.sqrt(trace / n)

    def solve(probability: float) -> float:
        if cdf(0.0) <= probability:
            return 0.0
        return float(optimize.brentq(lambda theta: cdf(theta) - probability, 0.0, farthest, xtol=1e-12 * farthest))

    estimate = math.sqrt(max(0.0, observed - trace / n))
    return Interval(estimate, min(solve(1 - tail), estimate), max(solve(tail), estimate))


@dataclass(frozen=True)
class BiasTest:
    """A test of E[g] = g*, with the smallest ‖b‖ in any direction that it finds with probability 0.95."""

    pvalue: float
    detectable: float


def bias_test(bias: Array, covariance: Array, n: int, scale: float, comparisons: int) -> BiasTest:
    """Hotelling's T² where n ≥ 10 P, else per-coordinate t-tests with Holm's adjustment.

    Directions without variance are decided by rounding: a bias above ``ROUNDING`` · scale there has p-value 0.

    Args:
        bias: b̂, [P].
        covariance: Σ̂ of single draws, [P, P].
        n: number of draws.
        scale: ‖g*‖.
        comparisons: number of tests the significance level 0.01 is shared by, for ``detectable``.
    """
    deviation = np.sqrt(np.diag(covariance))
    alive = deviation > 1e-12 * max(deviation.max(initial=0.0), scale)
    dead = float(np.linalg.norm(bias[~alive]))
    if not alive.any():
        return BiasTest(0.0 if dead > ROUNDING * scale else 1.0, 0.0)
    z = bias[alive] / deviation[alive]
    correlation = covariance[np.ix_(alive, alive)] / np.outer(deviation[alive], deviation[alive])
    values, vectors = np.linalg.eigh(correlation)
    kept = values > 1e-9 * values[-1]
    rank = int(kept.sum())
    projected = vectors.T @ z
    outside = (vectors[:, ~kept] @ projected[~kept]) * deviation[alive]
    dead = math.hypot(dead, float(np.linalg.norm(outside)))
    if n >= DRAWS_PER_DIMENSION * rank:
        t2 = n * float((projected[kept] ** 2 / values[kept]).sum())
        pvalue = float(stats.f.sf(t2 * (n - rank) / (rank * (n - 1)), rank, n - rank))
        noncentrality = _detectable_noncentrality(rank, n - rank, FAMILY_ALPHA / comparisons)
        largest = float(np.linalg.eigvalsh(covariance)[-1])
        detectable = math.sqrt(noncentrality * largest / n)
    else:
        pvalue = min(1.0, float(2 * stats.t.sf(np.abs(z) * math.sqrt(n), n - 1).min()) * len(z))  # Holm's smallest
        quantiles = stats.t.ppf(1 - FAMILY_ALPHA / comparisons / (2 * len(z)), n - 1) + stats.norm.ppf(POWER)
        detectable = float(quantiles * math.sqrt(float((deviation**2).sum()) / n))
    return BiasTest(0.0 if dead > ROUNDING * scale else pvalue, detectable)


def _detectable_noncentrality(rank: int, freedom: int, alpha: float) -> float:
    critical = float(stats.f.isf(alpha, rank, freedom))

    def missing(noncentrality: float) -> float:
        return float(stats.ncf.cdf(critical, rank, freedom, noncentrality)) - (1 - POWER)

    high = 4.0 * (rank * critical + 10)
    return float(optimize.brentq(missing, 0.0, high))
