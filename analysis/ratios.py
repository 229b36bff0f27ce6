"""The interval of a ratio of two estimates from the intervals of both."""

from __future__ import annotations

import math

from gradeval.analysis.statistics import UNKNOWN, Interval

_Z2 = 1.959963984540054**2


def ratio_interval(top: Interval, bottom: Interval, covariance: float = 0.0) -> Interval:
    """The ratio t/b of two positive numbers, each known with an interval.

    The lower end L is where t − L b is as far from zero as the lower part of t's interval and the upper part of b's
    allow together: (t − L b)² = (t − l)² + L²(u − b)² − 2L c; the upper end likewise (MOVER-R: Donner & Zou,
    Statistical Methods in Medical Research 21, 2012, doi:10.1177/0962280210383082). c is z² times the covariance of
    the two errors, never more than the product of the two parts.

    Args:
        top, bottom: both, with 95 % intervals.
        covariance: of their errors.

    Returns:
        The ratio; unknown where the bottom is not positive, unbounded where its interval reaches to zero.

    Examples:
        >>> found = ratio_interval(Interval(2.0, 1.0, 3.0), Interval(4.0, 4.0, 4.0))
        >>> found.low, found.estimate, found.high
        (0.25, 0.5, 0.75)
    """
    t, b = top.estimate, bottom.estimate
    if not b > 0 or math.isnan(t):
        return UNKNOWN
    parts = (t - top.low) * (bottom.high - b), (top.high - t) * (b - bottom.low)
    mixed = [t * b - (math.copysign(min(abs(_Z2 * covariance), part), covariance) if part else 0.0) for part in parts]
    squares = bottom.high * (2 * b - bottom.high), bottom.low * (2 * b - bottom.low)
    tops = top.low * (2 * t - top.low), top.high * (2 * t - top.high)
    low = mixed[0] + math.sqrt(max(0.0, mixed[0] ** 2 - squares[0] * tops[0]))
    low = tops[0] / low if low > 0 else 0.0
    if not (squares[1] > 0 and top.high < math.inf):
        return Interval(t / b, min(low, t / b), math.inf)
    high = (mixed[1] + math.sqrt(max(0.0, mixed[1] ** 2 - squares[1] * tops[1]))) / squares[1]
    return Interval(t / b, min(low, t / b), max(high, t / b))
