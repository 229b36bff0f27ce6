"""Tests of a bias, and of a change between two runs, each with what it would have found. Numbers in, p-values out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import special, stats

from gradeval.analysis.roots import crossing
from gradeval.analysis.statistics import Array, check_finite, noncentral_f_cdf, quadratic_form_score

FAMILY_ALPHA = 0.01  # family-wise error rate of the verdicts of one report
DETECTION = 0.95  # the probability with which a detectable bias or change is found
UNSURPRISING = 40.0  # minus the normal score of what is sure to happen
FAR = 1e6  # standard errors, beyond which only the widest direction counts
ROUNDING_BIAS = 1e-6  # the bias of what does not vary counts when above this share of ‖g*‖


def holm(pvalues: Any) -> Array:
    """p-values adjusted by Holm's method for the number of tests.

    Args:
        pvalues: of tests that share an error rate; NaN where there was no test.

    Returns:
        The adjusted ones, in the same order; NaN stays NaN.

    Examples:
        >>> holm([0.01, math.nan, 0.03]).tolist()
        [0.02, nan, 0.03]
    """
    # not statsmodels' multipletests: it collects garbage each time, which takes longer than a small run's tables
    adjusted = np.array(pvalues, dtype=float)
    order = np.argsort(adjusted)[: int((~np.isnan(adjusted)).sum())]  # NaN comes last
    stepped = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted


@dataclass(frozen=True)
class BiasTest:
    """A test of E[g] = g*.

    Attributes:
        pvalue: NaN where nothing can be said.
        detectable: the smallest ‖b‖, in any direction, that the test finds with probability 0.95.
    """

    pvalue: float
    detectable: float


def bias_test(
    bias: Array, covariance: Array, n: int, size: float, scale: float, comparisons: int, deterministic: bool = False
) -> BiasTest:
    """Test E[g] = g* by Hotelling's T² = n b̂ᵀ(Σ̂ + nφ²I)⁻¹b̂, φ = R log(1/α)/n.

    Draws of rare joint states are missing in Σ̂ as in b̂, and T² without φ would take what is missing for a bias known
    without error. A state of probability p goes unseen with probability (1 − p)ⁿ: where α = 0.01/comparisons is the
    level of one test, states of up to p ≈ log(1/α)/n may be missing, and with draws of size R they may make a
    bias of φ. So φ² is added to the variance of every direction (it can only lower T²). Directions count by
    λ/(λ + nφ²): the degrees of freedom are the sum of these, rounded up.

    Where nothing varies, a bias above `ROUNDING_BIAS` · ``scale`` has p-value 0 if the estimator is deterministic, else
    NaN: from draws that are all the same nothing is known of a state that was not drawn, and a bias of φ and more could
    be detected only.

    Args:
        bias: b̂, [P].
        covariance: Σ̂ of single draws, [P, P].
        n: number of draws.
        size: R, of a draw that matters: √(E‖g − g*‖⁴/E‖g − g*‖²).
        scale: ‖g*‖.
        comparisons: number of tests that share the significance level of 0.01.
        deterministic: whether all draws are the same by construction.

    Returns:
        The p-value, and the bias that this test would have found.

    Raises:
        GradevalError: a number is NaN or infinite.

    Examples:
        >>> bias_test(np.array([0.0, 0.0]), np.eye(2), 1000, size=1.4, scale=1.0, comparisons=1).pvalue
        1.0
        >>> bias_test(np.array([0.5, 0.0]), np.eye(2), 1000, size=1.4, scale=1.0, comparisons=1).pvalue < 1e-9
        True
    """
    check_finite("a bias, its covariance and scale", bias, covariance, size, scale)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    largest = float(values[-1])
    alpha = FAMILY_ALPHA / comparisons
    missing = size * math.log(1 / alpha) / n
    if math.sqrt(largest) <= 1e-12 * scale:
        return constant_test(float(np.linalg.norm(bias)), missing, scale, (n, alpha), deterministic)
    floor = n * missing**2
    floor = max(floor, 1e-12 * largest)  # of Σ̂'s rounding
    rank = max(1, math.ceil(float((values / (values + floor)).sum()) - 1e-6))
    t2 = n * float(((vectors.T @ bias) ** 2 / (values + floor)).sum())
    pvalue = float(stats.f.sf(t2 * (n - rank) / (rank * (n - 1)), rank, n - rank)) if n > rank else 1.0
    noncentrality = _detectable_noncentrality(rank, n - rank, alpha) if n > rank else math.inf
    return BiasTest(pvalue, math.sqrt(noncentrality * (largest + floor) / n))


def constant_test(
    size: float, missing: float, scale: float, setting: tuple[int, float], deterministic: bool
) -> BiasTest:
    """The test of a bias where no draw differs from another.

    Args:
        size: ‖b̂‖.
        missing: φ, what states that were not drawn may be missing in the mean.
        scale: ‖g*‖.
        setting: the number of draws, and the level of the test.
        deterministic: whether all draws are the same by construction.

    Returns:
        p-value 0 or 1 of a deterministic estimator; else 1, or NaN where there seems to be a bias.

    Examples:
        >>> constant_test(0.1, 0.0, 1.0, (100, 0.01), True)
        BiasTest(pvalue=0.0, detectable=0.0)
    """
    n, alpha = setting
    small = size <= ROUNDING_BIAS * scale
    if deterministic:
        return BiasTest(float(small), 0.0)
    # draws that are all the same say nothing of a state that was not drawn
    return BiasTest(1.0 if small else math.nan, missing * math.sqrt(_detectable_noncentrality(1, n - 1, alpha)))


@cache
def _detectable_noncentrality(rank: int, freedom: int, alpha: float) -> float:
    critical = float(stats.f.isf(alpha, rank, freedom))

    def found(noncentrality: float) -> float:
        """How much the power is above `DETECTION`."""
        return (1 - DETECTION) - noncentral_f_cdf(critical, rank, freedom, noncentrality)

    noncentrality = crossing(found, 0.0, 4.0 * (rank * critical + 10))
    return noncentrality if noncentrality < math.inf else math.inf  # NaN where it cannot be computed


@dataclass(frozen=True)
class ChangeTest:
    """A two-sample test of the hypothesis that a change is no larger than a margin.

    Attributes:
        pvalue: 0 or 1 where nothing was sampled.
        sampled: whether there is a sampling error.
        detectable: takes a significance level; gives the smallest change that a test at this level finds with
            probability 0.95 at least.
    """

    pvalue: float
    sampled: bool
    detectable: Callable[[float], float]


def change_test(difference: float, error: float, freedom: int, margin: float) -> ChangeTest:
    """Test |Δ| ≤ ``margin`` by an estimate of Δ with a standard error, as Student's t.

    Args:
        difference: of two independent estimates.
        error: its standard error; zero where both are exact.
        freedom: degrees of freedom.
        margin: what is too small to matter.

    Returns:
        The test.

    Raises:
        GradevalError: a number is NaN or infinite.

    Examples:
        >>> round(change_test(0.5, 0.1, 1000, margin=0.3).pvalue, 3)
        0.023
    """
    check_finite("a change and its error", difference, error)
    difference, error = float(difference), float(error)
    excess = abs(difference) - margin
    if excess <= 0 or error == 0:
        pvalue = float(excess <= 0)
    else:
        pvalue = float(special.stdtr(freedom, -excess / error) + special.stdtr(freedom, -(excess + 2 * margin) / error))

    def detectable(level: float) -> float:
        return margin + error * float(special.stdtrit(freedom, 1 - level / 2) + special.ndtri(DETECTION))

    return ChangeTest(min(pvalue, 1.0), error > 0, detectable)


def variance_of_difference(variances: tuple[Any, Any], draws: tuple[int, int]) -> Any:
    """The variance of a difference of two independent means with variances v₁, v₂: max(v₁ + v₂, v₁n₁/n₂ + v₂n₂/n₁).

    The first is Welch's; the second takes the variance of single draws from both samples together. They are equal for
    equal n. Without the second a shorter run that has missed a rare state would look certain.

    Args:
        variances: v₁ and v₂, numbers or arrays.
        draws: n₁ and n₂.

    Returns:
        As ``variances``: a number or an array.

    Examples:
        >>> float(variance_of_difference((0.0, 0.02), (100, 1000)))  # the shorter run may have missed what varies
        0.2
    """
    (v1, v2), (n1, n2) = variances, draws
    return np.maximum(v1 + v2, v1 * n1 / n2 + v2 * n2 / n1)


def ratio_test(
    values: tuple[float, float], errors: tuple[float, float], draws: tuple[int, int], margin: float
) -> ChangeTest:
    """Test |log(new/old)| ≤ log(1 + ``margin``) for two positive means, as Student's t of new − (1 + margin) old.

    The difference, unlike the logarithm, stays within its error where one rare state has been drawn k times on one
    side alone: both are kR²/n and √k R²/n. Reported p-value: twice the smaller of the two directions'.

    Args:
        values: old and new; zero is allowed.
        errors: their standard errors, of two independent runs.
        draws: of each run.
        margin: what is too small to matter, relative.

    Returns:
        The test; ``detectable`` is of new/old − 1 or old/new − 1, whichever is harder to find.

    Raises:
        GradevalError: a number is NaN or infinite.

    Examples:
        >>> ratio_test((1.0, 1.5), (0.05, 0.05), (1000, 1000), margin=0.02).pvalue < 1e-6
        True
    """
    freedom, factor = min(draws) - 1, 1 + margin
    check_finite("two means and their errors", *values, *errors)
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
        needed = float(special.stdtrit(freedom, 1 - level / 2) + special.ndtri(DETECTION))
        relative = [needed * error / value for error, value in zip(errors, values, strict=True)]
        ratios = []
        for i, j in ((0, 1), (1, 0)):
            for share in (1.0, draws[i] / draws[j]):
                a, b = 1 - share * relative[i] ** 2, 1 - relative[j] ** 2 / share
                ratios.append(factor * (1 + math.sqrt(max(0.0, 1 - a * b))) / a if a > 0 else math.inf)
        return max(ratios) - 1

    return ChangeTest(pvalue, bool(max(errors) > 0), detectable)


def shift_test(distance: float, variances: Array, margin: float, freedom: int) -> ChangeTest:
    """Test ‖Δ‖ ≤ ``margin`` by ‖d‖, d ~ N(Δ, Σ).

    The p-value is P(‖d‖ ≥ ``distance``) with Δ at the margin, along the widest direction. Σ is estimated: so the normal
    score of that probability is taken as Student's.

    Args:
        distance: ‖d‖, of two independent means.
        variances: eigenvalues of Σ.
        margin: what is too small to matter.
        freedom: degrees of freedom.

    Returns:
        The test.

    Raises:
        GradevalError: a number is NaN or infinite.

    Examples:
        >>> shift_test(0.1, np.array([0.01, 0.01]), margin=0.2, freedom=1000).pvalue
        1.0
    """
    check_finite("a change and its variances", distance, variances)
    unit = max(float(distance), margin, math.sqrt(float(variances.max()))) or 1.0  # squares stay in range
    variances = variances / unit / unit
    widest = math.sqrt(float(variances.max()))
    if widest == 0:
        return ChangeTest(float(distance <= margin), False, lambda level: margin)
    means = np.where(np.arange(len(variances)) == variances.argmax(), margin / unit, 0.0)

    def score(size: float) -> float:
        """How far out a change of ``size`` is, where the true one is at the margin, as a normal score."""
        excess = size - margin / unit
        if excess <= 0:
            return -UNSURPRISING
        return excess / widest if excess > FAR * widest else quadratic_form_score(size**2, variances, means)

    def detectable(level: float) -> float:
        needed = -float(special.stdtrit(freedom, level))
        low = margin / unit
        critical = crossing(lambda size: score(size) - needed, low, low + (abs(needed) + 1) * widest)
        # along Δ alone it is beyond the critical size
        return float(unit * (critical + special.ndtri(DETECTION) * widest)) if critical < math.inf else math.inf

    size = distance / unit
    pvalue = float(special.stdtr(freedom, -score(size))) if size > margin / unit else 1.0
    return ChangeTest(1.0 if math.isnan(pvalue) else pvalue, True, detectable)  # what cannot be computed says nothing
