"""From streamed moments to estimates with intervals and tests. Arrays in, numbers out.

For one layer with P parameters: b̂ = mean over n draws of g − g*, Σ̂ the draws' sample covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import optimize, special, stats

Array = np.ndarray

LEVEL = 0.95
FAMILY_ALPHA = 0.01  # family-wise error rate of the verdicts of one report
POWER = 0.95
ROUNDING = 1e-6  # the bias of what does not vary counts when above this share of ‖g*‖
ONE_TAIL, REGULAR = 7.0, 16.0  # up to, and from here on, an interval of ‖b‖ has one tail, and equal tails
AT_BOUNDARY = 0.045  # error rate below it, spent above ‖b̂‖ alone; the rest of the 5 % is for the approximations


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


def mean_interval(mean: float, standard_error: float, n: int, skewness: float | None = None) -> Interval:
    """Student's interval of a mean, corrected for the skewness of what is averaged.

    Of Student's statistic T the transform T + aT² + a²T³/3 + γ/6√n, a = γ/3√n, is normal to the next order.
    Source: P. Hall, On the removal of skewness by transformation, J. R. Statist. Soc. B 54, 1992.
    """
    low, high = _quantiles(n, skewness or 0.0, 0.0)
    return Interval(mean, mean - high * standard_error, mean - low * standard_error)


def positive_mean_interval(mean: float, standard_error: float, n: int, skewness: float | None = None) -> Interval:
    """The same of the logarithm of a positive mean (delta method), mapped back; there a = γ/3√n − error/(2 mean).

    Without ``skewness``, where it is unknown, Student's interval as it is.
    """
    if not mean > 0 or standard_error == 0:
        return Interval(mean, mean, mean)
    relative = standard_error / mean
    bounds = _quantiles(n, skewness, relative) if skewness is not None else (-_t(n), _t(n))
    low, high = (min(max(bound * relative, -50.0), 50.0) for bound in bounds)  # beyond, all is said
    return Interval(mean, mean * math.exp(-high), mean * math.exp(-low))


def skewness(third: float, standard_error: float, n: int) -> float:
    """γ of what is averaged, from its third central moment and the mean's standard error; zero without variance."""
    deviation = standard_error * math.sqrt(n)
    return third / deviation**3 if deviation > 0 and deviation**3 > 0 else 0.0


def _quantiles(n: int, skewness: float, relative: float) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of Student's statistic of a mean, or of its logarithm with ``relative`` error."""
    shift = skewness / (6 * math.sqrt(n))
    a = 2 * shift - relative / 2
    low, high = (z - shift if abs(a) < 1e-8 else (math.cbrt(1 + 3 * a * (z - shift)) - 1) / a for z in (-_t(n), _t(n)))
    return low, high


@cache
def _t(n: int) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2, max(n - 1, 1)))


def bias_interval(bias: Array, covariance: Array, n: int) -> Interval:
    """‖b‖ with an interval that is honest when b = 0, and never empty.

    ‖b̂‖² is biased upward by tr Σ/n, so the estimate is √max(0, ‖b̂‖² − tr Σ̂/n). The interval holds all θ for which a
    test of ‖b‖ = θ by ‖b̂‖² does not reject. The nuisance, b's direction, is set to its most likely value
    given θ: b(w)ᵢ = b̂ᵢ w/(w + (1 − w) λᵢ/λ₁) in the eigenbasis of Σ̂, a path from 0 (w = 0) through b̂ (w = 1) outward
    (hybrid resampling: Chuang & Lai, Statistica Sinica 10, 2000). The distribution of ‖b̂‖² under b(w) is that of a
    quadratic form, by `quadratic_form_cdf`.

    The test's error rate is split in two equal tails where ‖b̂‖² is nearly linear in the noise. Near zero, where ‖b̂‖²
    can hardly be too small, it goes to the upper tail, as in the unified intervals of Feldman & Cousins (Phys. Rev. D
    57, 1998, arXiv:physics/9711021): the split goes by q = 4 Σ vᵢ b(w)ᵢ² / 2 Σ vᵢ², vᵢ = λᵢ/n, the variance of
    ‖b̂‖² that is linear in the noise over that which is not. So an observed ‖b̂‖ of nearly 0, which few draws of few
    values often give, says no more than b ≲ 1.9 standard errors (one dimension, q = 7).
    """
    size = max(float(np.abs(bias).max()), math.sqrt(float(np.abs(covariance).max())))
    if size == 0:
        return Interval(0.0, 0.0, 0.0)
    return _bias_interval(bias / size, covariance / size / size, n).map(lambda v: size * v)  # squares stay in range


def _bias_interval(bias: Array, covariance: Array, n: int) -> Interval:
    """`bias_interval` of numbers near 1."""
    observed = float(bias @ bias)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    trace, largest = float(values.sum()), float(values[-1])
    if largest <= 1e-24 * n * observed:  # what varies is rounding
        return Interval(math.sqrt(observed), math.sqrt(observed), math.sqrt(observed))
    centre = vectors.T @ bias
    share = values / largest
    variances = _shrink(values, n) / n
    # outward the path goes along the widest direction: never quite at rest there
    least = 1e-3 * math.sqrt(variances[-1])
    centre[-1] = math.copysign(max(abs(centre[-1]), least), centre[-1])
    square = float(variances @ variances)

    def path(w: float) -> Array:
        return centre * w / (w + (1 - w) * share)

    def excess(w: float, above: bool) -> float:
        """How far the normal score of the observed ‖b̂‖² is above one end of the acceptance region."""
        means = path(w)
        linear = 2 * float(variances @ means**2) / square
        regular = min(max((linear - ONE_TAIL) / (REGULAR - ONE_TAIL), 0.0), 1.0)
        tail = (1 - LEVEL) / 2 * regular
        if not above:
            tail = 1 - AT_BOUNDARY - (1 - LEVEL - AT_BOUNDARY) * regular + tail
        return _quadratic_form_score(max(observed, 1e-12 * square**0.5), variances, means) - float(
            special.ndtri(max(tail, 1e-300))
        )

    def solve(above: bool) -> float:
        """‖b(w)‖ where the observed ‖b̂‖² is at the end of the acceptance region; 0 where even b = 0 has it below."""
        low, high = 1e-12, 2.0
        if excess(low, above) <= 0:
            return 0.0
        while excess(high, above) > 0:
            high *= 2
        return float(np.linalg.norm(path(optimize.brentq(lambda w: excess(w, above), low, high, rtol=1e-8))))

    estimate = math.sqrt(max(0.0, observed - trace / n))
    return Interval(estimate, min(solve(above=False), estimate), max(solve(above=True), estimate))


def _shrink(values: Array, n: int) -> Array:
    """Eigenvalues of a sample covariance drawn together so that tr Σ² is unbiased for Gaussian draws.

    tr Σ̂² exceeds tr Σ² by about (tr Σ)²/n; the trace is kept.
    """
    trace, square, count = values.sum(), (values**2).sum(), len(values)
    if n <= 2 or count == 1:
        return values
    unbiased = (n - 1) ** 2 / ((n + 1) * (n - 2)) * (square - trace**2 / (n - 1))
    spread = square - trace**2 / count
    if spread <= 0:
        return values
    keep = math.sqrt(min(max((unbiased - trace**2 / count) / spread, 0.0), 1.0))
    return trace / count + keep * (values - trace / count)


def quadratic_form_cdf(x: float, variances: Array, means: Array) -> float:
    """P(Σ yᵢ² ≤ x) for independent yᵢ ~ N(meansᵢ, variancesᵢ), by saddlepoint approximation.

    With K(t) = Σ [−½ log(1 − 2tvᵢ) + t mᵢ²/(1 − 2tvᵢ)] and K'(t) = x: Φ(r + log(q/r)/r), r = sign(t) √(2(tx − K(t))),
    q = t √K''(t). Source: D. Kuonen, Biometrika 86, 1999, doi:10.1093/biomet/86.4.929.
    """
    return float(special.ndtr(_quadratic_form_score(x, variances, means)))


def _quadratic_form_score(x: float, variances: Array, means: Array) -> float:
    """The standard normal quantile of `quadratic_form_cdf`.

    Newton's method for K'(t) = x. K' is a sum of positive, increasing, convex terms; where one term alone is x, K' is
    at least x. From the smallest such t every step is downward and none goes too far.
    """
    means2 = means**2
    largest = float(variances.max())
    alone = (variances + np.sqrt(variances**2 + 4 * means2 * x)) / (2 * x)  # 1 − 2tvᵢ where the i-th term is x
    moving = variances > 1e-12 * largest
    t = float(((1 - alone[moving]) / (2 * variances[moving])).min())
    for _ in range(200):
        d = 1 / (1 - 2 * t * variances)
        vd, md2 = variances * d, means2 * d**2
        curvature = float(2 * (vd @ vd) + 4 * (md2 @ vd))
        step = (float(vd.sum() + md2.sum()) - x) / curvature
        t -= step
        if abs(step) <= 1e-12 * (abs(t) + 1e-3 / largest):
            break
    log_moment = float(0.5 * np.log(d).sum() + t * (means2 @ d))
    r = math.copysign(math.sqrt(max(0.0, 2 * (t * x - log_moment))), t)
    if abs(r) < 1e-4:  # at the mean: the limit of the formula
        third = float(8 * (vd**3).sum() + 24 * (md2 @ vd**2))
        return float(special.ndtri(0.5 + third / (6 * math.sqrt(2 * math.pi) * curvature**1.5)))
    return r + math.log(t * math.sqrt(curvature) / r) / r


@dataclass(frozen=True)
class BiasTest:
    """A test of E[g] = g*, with the smallest ‖b‖ in any direction that it finds with probability 0.95."""

    pvalue: float
    detectable: float


def bias_test(
    bias: Array, covariance: Array, n: int, size: float, scale: float, comparisons: int, deterministic: bool = False
) -> BiasTest:
    """Hotelling's T² = n b̂ᵀ(Σ̂ + nφ²I)⁻¹b̂, φ = R log(1/α)/n.

    Draws of rare joint states are missing in Σ̂ as in b̂, and T² without φ would take what is missing for a bias known
    without error. A state of probability p goes unseen with probability (1 − p)ⁿ: where α = 0.01/comparisons is the
    level of one test, states of up to p ≈ log(1/α)/n may be missing, and with draws of size R they may make a
    bias of φ. So φ² is added to the variance of every direction (it can only lower T²). Directions count by
    λ/(λ + nφ²): the degrees of freedom are the sum of these, rounded up.

    Where nothing varies, a bias above ``ROUNDING`` · scale has p-value 0 if the estimator is deterministic, else NaN:
    from draws that are all the same nothing is known of a state that was not drawn.

    Args:
        bias: b̂, [P].
        covariance: Σ̂ of single draws, [P, P].
        n: number of draws.
        size: R, of a draw that matters: √(E‖g − g*‖⁴/E‖g − g*‖²).
        scale: ‖g*‖.
        comparisons: number of tests the significance level 0.01 is shared by.
        deterministic: whether all draws are the same by construction.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    largest = float(values[-1])
    if math.sqrt(largest) <= 1e-12 * max(scale, size):
        if float(np.linalg.norm(bias)) <= ROUNDING * scale:
            return BiasTest(1.0, 0.0)
        return BiasTest(0.0, 0.0) if deterministic else BiasTest(math.nan, math.nan)
    alpha = FAMILY_ALPHA / comparisons
    floor = n * (size * math.log(1 / alpha) / n) ** 2
    floor = max(floor, 1e-12 * largest)  # of Σ̂'s rounding
    rank = max(1, math.ceil(float((values / (values + floor)).sum()) - 1e-6))
    t2 = n * float(((vectors.T @ bias) ** 2 / (values + floor)).sum())
    pvalue = float(stats.f.sf(t2 * (n - rank) / (rank * (n - 1)), rank, n - rank)) if n > rank else 1.0
    noncentrality = _detectable_noncentrality(rank, n - rank, alpha) if n > rank else math.inf
    return BiasTest(pvalue, math.sqrt(noncentrality * (largest + floor) / n))


@cache
def _detectable_noncentrality(rank: int, freedom: int, alpha: float) -> float:
    critical = float(stats.f.isf(alpha, rank, freedom))

    def missing(noncentrality: float) -> float:
        return float(stats.ncf.cdf(critical, rank, freedom, noncentrality)) - (1 - POWER)

    high = 4.0 * (rank * critical + 10)
    # with a degree of freedom or two T² has hardly any power, and the distribution cannot be computed that far out
    return float(optimize.brentq(missing, 0.0, high)) if missing(high) < 0 else math.inf


@dataclass(frozen=True)
class ChangeTest:
    """A two-sample test of a change no larger than a margin.

    Attributes:
        pvalue: 0 or 1 where nothing was sampled.
        sampled: whether there is a sampling error.
        detectable: the smallest change that it finds at a significance level with probability 0.95 at least.
    """

    pvalue: float
    sampled: bool
    detectable: Callable[[float], float]


def change_test(difference: float, error: float, freedom: int, margin: float) -> ChangeTest:
    """Of |Δ| ≤ ``margin`` by an estimate of Δ with a standard error, as Student's t.

    Args:
        difference: of two independent estimates.
        error: its standard error; zero where both are exact.
        freedom: degrees of freedom.
        margin: what is too small to matter.
    """
    excess = abs(difference) - margin
    if excess <= 0 or error == 0:
        pvalue = float(excess <= 0)
    else:
        pvalue = float(special.stdtr(freedom, -excess / error) + special.stdtr(freedom, -(excess + 2 * margin) / error))

    def detectable(level: float) -> float:
        return margin + error * float(special.stdtrit(freedom, 1 - level / 2) + special.ndtri(POWER))

    return ChangeTest(min(pvalue, 1.0), error > 0, detectable)


def variance_of_difference(variances: tuple[Any, Any], draws: tuple[int, int]) -> Any:
    """Variance of a difference of two independent means with variances v₁, v₂: max(v₁ + v₂, v₁n₁/n₂ + v₂n₂/n₁).

    The first is Welch's; the second takes the variance of single draws from both samples together. They are equal for
    equal n. Without the second a shorter run that has missed a rare state would look certain.
    """
    (v1, v2), (n1, n2) = variances, draws
    return np.maximum(v1 + v2, v1 * n1 / n2 + v2 * n2 / n1)


def ratio_test(
    values: tuple[float, float], errors: tuple[float, float], draws: tuple[int, int], margin: float
) -> ChangeTest:
    """Of |log(new/old)| ≤ log(1 + ``margin``) for two positive means, as Student's t of new − (1 + margin) old.

    The difference, unlike the logarithm, stays within its error where one rare state has been drawn k times on one
    side alone: both are kR²/n and √k R²/n. Reported p-value: twice the smaller of the two directions'.

    Args:
        values: old and new; zero is allowed.
        errors: their standard errors, of two independent runs.
        draws: of each run.
        margin: what is too small to matter, relative.
    """
    freedom, factor = min(draws) - 1, 1 + margin
    unit = max(*values, *errors) or 1.0  # squares stay in range
    values, errors = (values[0] / unit, values[1] / unit), (errors[0] / unit, errors[1] / unit)
    squares = (errors[0] ** 2, errors[1] ** 2)

    def excess(i: int) -> float:
        """How many standard errors one value is above (1 + margin) times the other."""
        j = 1 - i
        difference = values[i] - factor * values[j]
        error = math.sqrt(variance_of_difference((squares[i], factor**2 * squares[j]), (draws[i], draws[j])))
        return difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0

    pvalue = min(1.0, 2 * float(special.stdtr(freedom, -max(excess(0), excess(1)))))

    def detectable(level: float) -> float:
        """The ratio − 1 at which the expected excess is the critical value and the power's quantile above it."""
        if min(values) <= 0:
            return math.inf
        needed = float(special.stdtrit(freedom, 1 - level / 2) + special.ndtri(POWER))
        relative = [needed * error / value for error, value in zip(errors, values, strict=True)]
        ratios = []
        for i, j in ((0, 1), (1, 0)):
            for share in (1.0, draws[i] / draws[j]):
                a, b = 1 - share * relative[i] ** 2, 1 - relative[j] ** 2 / share
                ratios.append(factor * (1 + math.sqrt(max(0.0, 1 - a * b))) / a if a > 0 else math.inf)
        return max(ratios) - 1

    return ChangeTest(pvalue, bool(max(errors) > 0), detectable)


def shift_test(distance: float, variances: Array, margin: float, freedom: int) -> ChangeTest:
    """Of ‖Δ‖ ≤ ``margin`` by ‖d‖, d ~ N(Δ, Σ): P(‖d‖ ≥ ``distance``) with Δ at the margin, along the widest direction.

    Σ is estimated: the normal score of that probability is taken as Student's.

    Args:
        distance: ‖d‖, of two independent means.
        variances: eigenvalues of Σ.
        margin: what is too small to matter.
        freedom: degrees of freedom.
    """
    widest, reach = math.sqrt(float(variances.max())), 40 * math.sqrt(float(variances.sum()))
    means = np.where(np.arange(len(variances)) == variances.argmax(), margin, 0.0)

    def tail(size: float) -> float:
        if size <= margin:
            return 1.0
        return 0.0 if size > margin + reach else max(0.0, 1 - quadratic_form_cdf(size**2, variances, means))

    def detectable(level: float) -> float:
        if reach == 0:
            return margin
        known = float(special.ndtr(special.stdtrit(freedom, level)))  # the level if Σ were known
        critical = optimize.brentq(lambda size: tail(size) - known, margin, margin + reach)
        return float(critical + special.ndtri(POWER) * widest)  # enough along Δ alone to be beyond the critical size

    pvalue = float(special.stdtr(freedom, special.ndtri(tail(distance)))) if reach > 0 else tail(distance)
    return ChangeTest(pvalue, reach > 0, detectable)
