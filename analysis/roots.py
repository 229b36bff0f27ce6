"""Where an increasing function crosses zero, found without an exception whatever the function does."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize

ROUNDING = 4 * float(np.finfo(float).eps)  # the smallest relative tolerance that brentq takes


def crossing(function: Callable[[float], float], low: float, high: float, rtol: float = ROUNDING) -> float:
    """Find where an increasing function crosses zero, from ``low`` on.

    A bracket is proven before it is searched: its upper end is moved away from ``low``, twice as far each time, until
    the function is no longer negative there.

    Args:
        function: increasing, but for rounding.
        low: where the search begins.
        high: above ``low``; the first guess of a number beyond the crossing.
        rtol: relative tolerance of the result.

    Returns:
        The crossing; ``low`` where the function is not negative there; infinity where it is negative as far as numbers
        go; NaN where the function is NaN on the way, so that nothing can be said.

    Examples:
        >>> round(crossing(lambda x: x**2 - 2, 0.0, 1.0), 6)
        1.414214
        >>> crossing(lambda x: x + 1, 0.0, 1.0), crossing(lambda x: -1.0, 0.0, 1.0)
        (0.0, inf)
    """
    with np.errstate(all="ignore"):
        value = function(low)
        if not value < 0:
            return math.nan if math.isnan(value) else low
        high = max(high, low + ROUNDING * abs(low))  # a step that rounding swallows would never end
        step = high - low
        while (value := function(high)) < 0:
            step *= 2
            high = low + step
            if math.isinf(high):
                return math.inf
        if math.isnan(value):
            return math.nan
        try:
            return float(optimize.brentq(function, low, high, rtol=rtol, maxiter=500))
        except (ValueError, RuntimeError):  # NaN in between, or steps without end
            return math.nan
