"""Measures that do not change where an estimator is multiplied by a number, which a learning rate takes up."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from gradeval.analysis.measures import progress, relative_variance, rescaled_bias, signal_to_noise
from gradeval.analysis.ratios import ratio_interval
from gradeval.analysis.run.directions import Direction
from gradeval.analysis.run.estimates import Accuracy, certain, within_bounds
from gradeval.analysis.run.moments import Moments, correlation_along, covariance_with_deviation
from gradeval.analysis.statistics import UNKNOWN, Array, Interval, bias_interval, together

SCALE_FREE = ("rescaled_bias", "signal_to_noise", "progress")


def scale_free_intervals(
    moments: Moments, exact: Array, layer: str, accuracy: Accuracy, scale: Interval
) -> dict[str, Interval]:
    """The measures of `SCALE_FREE` with intervals, for one layer.

    Args:
        moments: of one estimator.
        exact: g* of all layers, [P].
        layer: its name.
        accuracy: of the estimator in this layer.
        scale: ⟨E g, g*⟩/‖g*‖² with its interval.

    Returns:
        Intervals by the column of the summary. Where g* was sampled all are unknown; with too many parameters for a
        covariance the signal-to-noise ratio is.
    """
    target = exact[moments.layout.slices[layer]]
    norm = float(np.linalg.norm(target))
    if not norm or moments.second is not None:
        return dict.fromkeys(SCALE_FREE, UNKNOWN)
    if certain(moments):
        return _of_a_constant(target + moments.bias(layer), target)
    direction = Direction.of(moments, exact, layer, accuracy.missing.mean)
    rest = Accuracy(direction.across, relative_variance(accuracy.variance, norm))
    return {
        "rescaled_bias": _rescaled_bias(scale, direction),
        "signal_to_noise": UNKNOWN if moments.at_size else _signal_to_noise(moments, target, layer, accuracy),
        "progress": _progress(scale, rest.rmse(), correlation_along(moments, layer, target)),
    }


def exact_scale_free(bias: pd.Series, variance: pd.Series, scale: pd.Series) -> dict[str, pd.Series]:
    """The measures of `SCALE_FREE` from exact figures.

    Args:
        bias, variance, scale: ‖E g − g*‖/‖g*‖, tr Σ/‖g*‖² and ⟨E g, g*⟩/‖g*‖².

    Returns:
        The measures by the column of the summary; of no variance the signal-to-noise ratio is infinite.

    Examples:
        >>> one = pd.Series([1.0])
        >>> {key: round(float(found[0]), 3) for key, found in exact_scale_free(one, 3 * one, one).items()}
        {'rescaled_bias': 0.765, 'signal_to_noise': 0.816, 'progress': 0.447}
    """
    across = np.sqrt(np.maximum(0.0, bias**2 - (scale - 1) ** 2))
    mean = np.hypot(scale, across)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = signal_to_noise(mean, np.sqrt(variance))
    found = rescaled_bias(scale, across), ratio, progress(scale, np.hypot(mean, np.sqrt(variance)))
    return dict(zip(SCALE_FREE, found, strict=True))


def _of_a_constant(mean: Array, target: Array) -> dict[str, Interval]:
    """The measures of an estimator whose draws are all the same."""
    unit = target / float(np.linalg.norm(target))
    along, length = float(mean @ unit), float(np.linalg.norm(mean))
    across = float(np.linalg.norm(mean - along * unit))
    ratio, share = (math.inf, progress(along, length)) if length else (math.nan, math.nan)
    values = float(rescaled_bias(along, across)), ratio, share
    return {key: Interval(value, value, value) for key, value in zip(SCALE_FREE, values, strict=True)}


def _rescaled_bias(scale: Interval, direction: Direction) -> Interval:
    """From what the mean has along g* and across it; the two errors are combined as in `Accuracy.rmse`."""
    across = direction.across
    found = float(rescaled_bias(scale.estimate, across.estimate))
    ends = [(rescaled_bias(s, across.estimate), rescaled_bias(scale.estimate, c)) for s, c in _extremes(scale, across)]
    below, above = (together([abs(float(end) - found) for end in pair], -direction.correlation) for pair in ends)
    return Interval(found, max(0.0, found - below), min(2.0, found + above))


def _signal_to_noise(moments: Moments, target: Array, layer: str, accuracy: Accuracy) -> Interval:
    """‖E g‖ has the interval that a bias would have: it is honest where the mean is not told from zero."""
    mean, noise = target + moments.bias(layer), accuracy.variance.map(math.sqrt)
    size, missing = float(np.linalg.norm(mean)), accuracy.missing.mean
    if not noise.estimate > 0:
        return Interval(*(math.inf if size else math.nan,) * 3)
    length = bias_interval(mean, moments.spread(layer), moments.draws).widened(missing, missing)
    joint = (
        covariance_with_deviation(moments, layer, mean / size) / (2 * noise.estimate) / moments.draws if size else 0.0
    )
    return ratio_interval(length, noise, joint)


def _progress(scale: Interval, rest: Interval, correlation: float) -> Interval:
    """s/√(s² + r²), from the scale s and all else that a draw has, r² = ‖E g across g*‖²/‖g*‖² + tr Σ/‖g*‖².

    The errors of both are combined as in `Accuracy.rmse`: where large draws are rare, one that is met makes both large.
    """

    def at(s: float, r: float) -> float:
        return progress(s, math.hypot(s, r)) if s or r else math.nan

    found = at(scale.estimate, rest.estimate)
    ends = [(at(s, rest.estimate), at(scale.estimate, r)) for s, r in _extremes(scale, rest)]
    above, below = (together([abs(end - found) for end in pair], -correlation) for pair in ends)
    return Interval(found, found - below, found + above).map(within_bounds)


def _extremes(scale: Interval, other: Interval) -> tuple[tuple[float, float], tuple[float, float]]:
    """A long mean along g* with little else, and a short one with much."""
    return (scale.high, other.low), (scale.low, other.high)
