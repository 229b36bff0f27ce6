"""From the moments of one estimator to estimates with intervals, and to the test of its bias, layer by layer."""

from __future__ import annotations

import math

import numpy as np

from gradeval.analysis.hypotheses import BiasTest, bias_test
from gradeval.analysis.measures import relative, relative_variance, scale
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.statistics import (
    LEVEL,
    UNKNOWN,
    Array,
    Interval,
    bias_interval,
    mean_interval,
    positive_mean_interval,
    skewness,
)

ROUNDING_OF_SINGLE = 1e-5  # of a mean of gradients in single precision: some hundred of its rounding units
ROUNDING_VARIANCE = 1e-26  # a variance below this share of the mean squared gradient is rounding


def intervals(moments: Moments, exact: Array, layer: str) -> dict[str, Interval]:
    """Every estimate of the summary that has an interval, for one layer.

    Args:
        moments: of one estimator.
        exact: g* of all layers, [P].
        layer: its name.

    Returns:
        Intervals by the column of the summary.
    """
    target = exact[moments.layout.slices[layer]]
    norm = float(np.linalg.norm(target))
    n, bias, covariance = moments.draws, moments.bias(layer), moments.spread(layer)
    variance, variance_error = total_variance(moments, exact, layer)
    (square, square_variance), (cosine, cosine_variance) = moments.square(layer), moments.cosine(layer)
    square_error, cosine_error = math.sqrt(square_variance / n), math.sqrt(cosine_variance / n)
    direction = target / norm if norm else np.zeros_like(bias)
    scale_error = math.sqrt(max(0.0, direction @ covariance @ direction) / n)
    skew = [
        skewness(float(third), error * unit, n)
        for third, error, unit in zip(
            moments.third(layer),
            (square_error, cosine_error, variance_error, scale_error),
            (1.0, 1.0, 1.0, norm),
            strict=True,
        )
    ]
    rmse = positive_mean_interval(square, square_error, n, skew[0]).map(math.sqrt)
    cosines = mean_interval(cosine, cosine_error, n, skew[1]).map(within_bounds)
    return {
        "relative_bias": relative(bias_interval(bias, covariance, n), norm),
        "relative_variance": relative_variance(positive_mean_interval(variance, variance_error, n, skew[2]), norm),
        "cosine": cosines if norm else UNKNOWN,
        "relative_rmse": relative(rmse, norm),
        "descent_probability": _proportion(moments.descent(layer), n, moments.deterministic),
        "scale": scale(mean_interval(float(direction @ bias) + norm, scale_error, n, skew[3]), norm),
    }


def unbiasedness(moments: Moments, exact: Array, layer: str, comparisons: int, rounding: float = 0.0) -> BiasTest:
    """The test of E[g] = g* in one layer.

    Args:
        moments: of one estimator.
        exact: g* of all layers, [P].
        layer: its name.
        comparisons: number of tests that share the significance level.
        rounding: a bias up to this, relative to the larger of ‖g*‖ and the size of a draw's error, is rounding.

    Returns:
        The test.
    """
    norm = float(np.linalg.norm(exact[moments.layout.slices[layer]]))
    square, variance = moments.square(layer)
    size = math.sqrt(square + variance / square) if square > 0 else 0.0
    bias, covariance = moments.bias(layer), moments.spread(layer)
    if rounding:
        bias = bias * max(0.0, 1 - rounding * max(norm, size) / max(float(np.linalg.norm(bias)), 1e-300))
    return bias_test(bias, covariance, moments.draws, size, norm, comparisons, moments.deterministic)


def total_variance(moments: Moments, exact: Array, layer: str) -> tuple[float, float]:
    """tr Σ̂ of one draw in one layer, and its standard error.

    The variance of tr Σ̂ is that of ‖g − E g‖² over n, and 2 tr Σ²/n², which is what is left where all draws are
    equally far from their mean.

    Args:
        moments: of one estimator.
        exact: g* of all layers, [P].
        layer: its name.

    Returns:
        Both, in the units of the squared gradient.
    """
    where, square = moments.layout.slices[layer], moments.layout.square(layer)
    covariance = moments.spread(layer)
    variance = float(np.trace(covariance))
    if variance < ROUNDING_VARIANCE * (float(np.linalg.norm(exact[where])) ** 2 + moments.square(layer)[0]):
        variance = 0.0
    # influence of one draw on tr Σ̂: ‖g − E g‖² = ‖g − g*‖² − 2⟨b, g − g*⟩ + const
    contrast = np.zeros(len(moments.mean))
    contrast[square] = 1.0
    contrast[where] = -2 * moments.bias(layer)
    first = max(0.0, float(contrast @ moments.covariance @ contrast)) / moments.draws
    return variance, math.hypot(math.sqrt(first), math.sqrt(2) * float(np.linalg.norm(covariance)) / moments.draws)


def within_bounds(cosine: float) -> float:
    """Cut a number, such as the end of an interval, to what a cosine can be.

    Args:
        cosine: any number.

    Returns:
        The nearest number between −1 and 1.

    Examples:
        >>> within_bounds(1.02)
        1.0
    """
    return min(max(cosine, -1.0), 1.0)


def _proportion(count: int, n: int, deterministic: bool) -> Interval:
    from statsmodels.stats.proportion import proportion_confint

    if deterministic:
        return Interval(*(float(count > 0),) * 3)
    low, high = proportion_confint(count, n, alpha=1 - LEVEL, method="wilson")
    return Interval(count / n, float(low), float(high))
