"""The measures of a gradient estimator, each defined in one place: from its mean, its spread and the exact gradient g*.

They take norms, inner products and traces, which may be numbers, arrays of numpy, tensors of torch or intervals: only
arithmetic is used. "Relative" is to ‖g*‖ of the same parameters.
"""

from __future__ import annotations

import math
from typing import Any

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
