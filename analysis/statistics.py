"""From streamed moments to estimates with intervals. Arrays in, numbers out.

For one layer with P parameters: b̂ is the mean over n draws of g − g*, Σ̂ the sample covariance of the draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import special, stats

from gradeval.analysis.measures import bias_size
from gradeval.analysis.roots import crossing
from gradeval.errors import GradevalError

Array = np.ndarray

LEVEL = 0.95  # of all intervals
ENDS = ("", "_low", "_high")  # of the names of an interval's columns
ONE_TAIL, REGULAR = 7.0, 16.0  # up to, and from here on, an interval of ‖b‖ has one tail, and equal tails
LONGEST_SERIES = 1e8  # the noncentrality up to which scipy sums
AT_BOUNDARY = 0.045  # error rate below it, spent above ‖b̂‖ alone; the rest of the 5 % is for the approximations


@dataclass(frozen=True)
class Interval:
    """An estimate with a 95 % confidence interval.

    Attributes:
        estimate: the estimate.
        low, high: the ends of the interval.

    Examples:
        >>> Interval(4.0, 1.0, 9.0).map(math.sqrt) / 2.0
        Interval(estimate=1.0, low=0.5, high=1.5)
    """

    estimate: float
    low: float
    high: float

    def __truediv__(self, scale: float) -> Interval:
        """All three divided by ``scale``; NaN where the scale is zero."""
        if scale == 0:
            return UNKNOWN
        return Interval(self.estimate / scale, self.low / scale, self.high / scale)

    def widened(self, below: float, above: float) -> Interval:
        """The interval with its ends moved outward, never below zero.

        Args:
            below, above: by how much.

        Returns:
            The wider interval around the same estimate.
        """
        low = self.low if below == 0 else max(0.0, self.low - below)
        return Interval(self.estimate, low, self.high + above)

    def map(self, function: Callable[[float], float]) -> Interval:
        """Apply an increasing function to the estimate and to both ends.

        Args:
            function: increasing.

        Returns:
            The interval of the function's value.
        """
        return Interval(function(self.estimate), function(self.low), function(self.high))

    def columns(self, name: str) -> dict[str, float]:
        """The three numbers as columns of a table.

        Args:
            name: of the estimate's column.

        Returns:
            ``name``, ``name_low`` and ``name_high``.

        Examples:
            >>> Interval(1.0, 0.5, 1.5).columns("scale")
            {'scale': 1.0, 'scale_low': 0.5, 'scale_high': 1.5}
        """
        return dict(zip((f"{name}{end}" for end in ENDS), (self.estimate, self.low, self.high), strict=True))


UNKNOWN = Interval(math.nan, math.nan, math.nan)
"""The interval of what is not defined."""


def together(errors: list[float], correlation: float) -> float:
    """The size of the sum of two errors.

    Args:
        errors: the sizes a and b of both.
        correlation: ρ.

    Returns:
        √(a² + b² + 2ρab).

    Examples:
        >>> together([3.0, 4.0], 0.0), together([3.0, 4.0], -1.0)
        (5.0, 1.0)
    """
    a, b = errors
    return math.hypot(a + correlation * b, math.sqrt(max(0.0, 1 - correlation**2)) * b)


def mean_interval(mean: float, standard_error: float, n: int, skewness: float | None = None) -> Interval:
    """Student's interval of a mean, corrected for the skewness of what is averaged.

    Of Student's statistic T the transform T + aT² + a²T³/3 + γ/6√n, a = γ/3√n, is normal to the next order.
    Source: P. Hall, On the removal of skewness by transformation, J. R. Statist. Soc. B 54, 1992.

    Args:
        mean: of n independent values.
        standard_error: of the mean.
        n: number of values.
        skewness: γ of one value, see `skewness`; None where it is unknown.

    Returns:
        The mean with its 95 % interval.

    Examples:
        >>> found = mean_interval(1.0, 0.1, 50)
        >>> round(found.low, 3), round(found.high, 3)
        (0.799, 1.201)
    """
    low, high = _quantiles(n, skewness or 0.0, 0.0)
    return Interval(mean, mean - high * standard_error, mean - low * standard_error)


def positive_mean_interval(mean: float, standard_error: float, n: int, skewness: float | None = None) -> Interval:
    """The interval of a positive mean: that of its logarithm (delta method), mapped back.

    It is corrected for skewness as in `mean_interval`, with a = γ/3√n − error/(2 mean).

    Args:
        mean: of n independent values.
        standard_error: of the mean.
        n: number of values.
        skewness: γ of one value; None where it is unknown: then Student's interval is not corrected.

    Returns:
        The mean with its 95 % interval, which is the mean itself where that is not positive or has no error.

    Examples:
        >>> found = positive_mean_interval(1.0, 0.1, 50)
        >>> round(found.low, 3), round(found.high, 3)
        (0.818, 1.223)
    """
    if not mean > 0 or standard_error == 0:
        return Interval(mean, mean, mean)
    relative = standard_error / mean
    bounds = _quantiles(n, skewness, relative) if skewness is not None else (-_t(n), _t(n))
    low, high = (min(max(bound * relative, -50.0), 50.0) for bound in bounds)  # beyond, all is said
    return Interval(mean, mean * math.exp(-high), mean * math.exp(-low))


def skewness(third: float, standard_error: float, n: int) -> float:
    """The skewness γ of what is averaged.

    Args:
        third: its third central moment.
        standard_error: of the mean of n values.
        n: number of values.

    Returns:
        γ; zero where the values do not vary.

    Examples:
        >>> skewness(8.0, 0.2, 100)
        1.0
    """
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

    Args:
        bias: b̂, [P].
        covariance: Σ̂ of single draws, [P, P].
        n: number of draws.

    Returns:
        ‖b‖ with its 95 % interval, in the units of ``bias``.

    Raises:
        GradevalError: a number is NaN or infinite.

    Examples:
        >>> bias_interval(np.array([3.0, 4.0]), np.zeros((2, 2)), 100)
        Interval(estimate=5.0, low=5.0, high=5.0)
        >>> bias_interval(np.zeros(2), np.eye(2), 100).low
        0.0
    """
    check_finite("a bias and its covariance", bias, covariance)
    size = max(float(np.abs(bias).max()), math.sqrt(float(np.abs(covariance).max())))
    if size == 0:
        return Interval(0.0, 0.0, 0.0)
    return _bias_interval(bias / size, covariance / size / size, n).map(lambda v: size * v)  # squares stay in range


def check_finite(what: str, *numbers: Any) -> None:
    """Raise GradevalError unless all numbers are finite.

    Args:
        what: they are, for the message.
        numbers: numbers or arrays.

    Raises:
        GradevalError: one is NaN or infinite.

    Examples:
        >>> check_finite("a bias", np.array([0.1, 0.2]), 0.3)
    """
    for array in map(np.asarray, numbers):
        if not np.isfinite(array).all():
            found = float(array[~np.isfinite(array)][0])
            raise GradevalError(f"{what} must be finite numbers, found {found}: leave out what diverged.")


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
        return quadratic_form_score(max(observed, 1e-12 * square**0.5), variances, means) - float(
            special.ndtri(max(tail, 1e-300))
        )

    def solve(above: bool) -> float:
        """‖b(w)‖ where the observed ‖b̂‖² is at the end of the acceptance region; 0 where even b = 0 has it below.

        Where that cannot be computed, the end is one that is never wrong: 0 or infinity.
        """
        nothing = 1e-12
        found = crossing(lambda w: -excess(w, above), nothing, 2.0, rtol=1e-8)
        if not found < math.inf:
            return math.inf if above else 0.0
        return 0.0 if found == nothing else float(np.linalg.norm(path(found)))

    estimate = bias_size(observed, trace / n)
    return Interval(estimate, min(solve(above=False), estimate), max(solve(above=True), estimate))


def noncentral_f_cdf(x: float, rank: int, freedom: int, noncentrality: float) -> float:
    """The distribution function of the noncentral F; by Patnaik's approximation where scipy's series fails.

    Far out the series gives NaN, or takes a second; the approximation is good to 1e-7 there where freedom is small.

    Source: P. B. Patnaik, Biometrika 36, 1949: F(ν₁, ν₂, λ) is about (1 + λ/ν₁) F((ν₁ + λ)²/(ν₁ + 2λ), ν₂).

    Args:
        x: above zero.
        rank, freedom: ν₁ and ν₂.
        noncentrality: λ.

    Returns:
        The probability.

    Examples:
        >>> round(noncentral_f_cdf(2.0, 3, 100, 5.0), 2), noncentral_f_cdf(1.47, 300, 10_000, 1700.0) < 1e-99
        (0.41, True)
    """
    found = math.nan
    if noncentrality <= LONGEST_SERIES:
        found = float(stats.ncf.cdf(x, rank, freedom, noncentrality))
    if math.isnan(found):
        equivalent = (rank + noncentrality) ** 2 / (rank + 2 * noncentrality)
        found = float(stats.f.cdf(x * rank / (rank + noncentrality), equivalent, freedom))
    return found


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

    Args:
        x: above zero.
        variances: of the yᵢ, at least one above zero.
        means: of the yᵢ.

    Returns:
        The probability, approximately.

    Examples:
        >>> round(quadratic_form_cdf(11.07, np.ones(5), np.zeros(5)), 2)  # the 95 % quantile of χ²₅
        0.95
    """
    return float(special.ndtr(quadratic_form_score(x, variances, means)))


def quadratic_form_score(x: float, variances: Array, means: Array, counts: Array | float = 1.0) -> float:
    """The standard normal quantile of `quadratic_form_cdf`; it says how far out x is where the probability is 1.

    Newton's method for K'(t) = x. K' is a sum of positive, increasing, convex terms; where one term alone is x, K' is
    at least x. From the smallest such t every step is downward and none goes too far.

    Args:
        x, variances, means: as of `quadratic_form_cdf`.
        counts: how many yᵢ have each of the variances, at least one; ``means`` is the length of all their means.

    Returns:
        The score.

    Examples:
        >>> round(quadratic_form_score(400.0, np.ones(1), np.zeros(1)), 1)  # −ndtri(P(χ²₁ > 400))
        20.0
    """
    means2 = means**2
    largest = float(variances.max())
    alone = (variances + np.sqrt(variances**2 + 4 * means2 * x)) / (2 * x)  # 1 − 2tvᵢ where the i-th term is x
    moving = variances > 1e-12 * largest
    t = float(((1 - alone[moving]) / (2 * variances[moving])).min())
    for _ in range(200):
        d = 1 / (1 - 2 * t * variances)
        vd, md2 = variances * d, means2 * d**2
        curvature = float(2 * (counts * vd @ vd) + 4 * (md2 @ vd))
        step = (float((counts * vd).sum() + md2.sum()) - x) / curvature
        t -= step
        if abs(step) <= 1e-12 * (abs(t) + 1e-3 / largest):
            break
    log_moment = float(0.5 * (counts * np.log(d)).sum() + t * (means2 @ d))
    r = math.copysign(math.sqrt(max(0.0, 2 * (t * x - log_moment))), t)
    if abs(r) < 1e-4:  # at the mean: the limit of the formula
        third = float(8 * (counts * vd**3).sum() + 24 * (md2 @ vd**2))
        return float(special.ndtri(0.5 + third / (6 * math.sqrt(2 * math.pi) * curvature**1.5)))
    return r + math.log(t * math.sqrt(curvature) / r) / r
