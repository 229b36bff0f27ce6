"""The measures of a gradient estimator, each defined in one place: from its mean, its spread and the exact gradient g*.

They take norms, inner products and traces, which may be numbers, arrays of numpy, tensors of torch or intervals: only
arithmetic is used. "Relative" is to ‖g*‖ of the same parameters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

EXACTLY_UNBIASED = 1e-9
"""An exact relative bias below this is rounding: the estimator is unbiased."""


def relative(length: Any, norm: Any) -> Any:
    """A length as a share of ‖g*‖: the bias ‖E g − g*‖, a root-mean-square error, a bias that could be detected.

    Args:
        length: in the units of the gradient.
        norm: ‖g*‖.

    Returns:
        ``length / norm``.

    Examples:
        >>> relative(0.5, 2.0)
        0.25
    """
    return length / norm


def relative_variance(trace: Any, norm: Any) -> Any:
    """tr Σ / ‖g*‖², the variance of one draw.

    Args:
        trace: tr Σ of one draw; an eigenvalue of Σ, or Σ itself, is scaled alike.
        norm: ‖g*‖.

    Returns:
        ``trace / norm**2``.

    Examples:
        >>> relative_variance(2.0, 2.0)
        0.5
    """
    return trace / norm**2


def mean_square(bias: Any, variance: Any, samples: Any = 1) -> Any:
    """bias² + variance/M, the expected squared error of the mean of M draws.

    Args:
        bias: ‖E g − g*‖.
        variance: tr Σ of one draw; relative if the bias is.
        samples: M.

    Returns:
        The square of the root-mean-square error.

    Examples:
        >>> mean_square(0.3, 1.6, 10)
        0.25
    """
    return bias**2 + variance / samples


def bias_size(square: float, chance: float) -> float:
    """‖b‖ estimated from ‖b̂‖², which is too large by tr Σ/n on average, whatever the bias.

    Args:
        square: ‖b̂‖², b̂ the mean of n draws of g − g*.
        chance: tr Σ̂/n, the part of it that is chance.

    Returns:
        √max(0, ‖b̂‖² − tr Σ̂/n).

    Examples:
        >>> bias_size(0.25, 0.09), bias_size(0.25, 0.3)
        (0.4, 0.0)
    """
    return math.sqrt(max(0.0, square - chance))


def cosine(inner: Any, norms: Any) -> Any:
    """The cosine of the angle between g, or its mean, and g*.

    Args:
        inner: ⟨g, g*⟩.
        norms: ‖g‖ ‖g*‖, above zero.

    Returns:
        ``inner / norms``.

    Examples:
        >>> cosine(1.0, 2.0)
        0.5
    """
    return inner / norms


def scale(mean: Any, exact: Any) -> Any:
    """The length of E g along g*, as a share of ‖g*‖: 1 is right, below 1 the mean is too short.

    Args:
        mean: ⟨E g, u⟩ for some vector u in the direction of g*.
        exact: ⟨g*, u⟩ for the same u: ‖g*‖² for u = g*, ‖g*‖ for u = g*/‖g*‖.

    Returns:
        ``mean / exact``.

    Examples:
        >>> scale(3.0, 4.0)
        0.75
    """
    return mean / exact


def rescaled_bias(along: Any, across: Any) -> Any:
    """The relative bias of an estimator whose mean has been given the length of g*: ‖E g ‖g*‖/‖E g‖ − g*‖/‖g*‖.

    It is 2 sin(θ/2), θ the angle between E g and g*: from 0 to 2.

    Args:
        along: the length of E g along g*; in any units.
        across: the length of the rest of E g, in the same units.

    Returns:
        The bias that no factor removes but for the choice of the length; 0 where both are zero.

    Examples:
        >>> [round(float(rescaled_bias(along, across)), 3) for along, across in ((0.5, 0.0), (1.0, 1.0), (-1.0, 0.0))]
        [0.0, 0.765, 2.0]
    """
    return 2 * np.sin(np.arctan2(across, along) / 2)


def signal_to_noise(mean: Any, deviation: Any) -> Any:
    """‖E g‖/√tr Σ of one draw; that of the mean of M draws is √M times as large.

    Its inverse square is the variance of an estimator whose mean has been given the length of g*, relative to ‖g*‖².

    Args:
        mean: ‖E g‖.
        deviation: √tr Σ of one draw.

    Returns:
        ``mean / deviation``.

    Examples:
        >>> signal_to_noise(3.0, 6.0)
        0.5
    """
    return mean / deviation


def progress(along: Any, length: Any) -> Any:
    """E⟨g, g*⟩/(√E‖g‖² ‖g*‖): how far a step goes downhill for its length, as a share of what g* does; at most 1.

    A step of the size that suits the curvature lowers J, to second order, by the square of this as a share of what the
    exact gradient does, where the curvature is the same in all directions.

    Args:
        along: ⟨E g, g*⟩/‖g*‖².
        length: √E‖g‖²/‖g*‖ of one draw.

    Returns:
        ``along / length``.

    Examples:
        >>> progress(0.5, 2.0)
        0.25
    """
    return along / length
