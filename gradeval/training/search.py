"""The search for a learning rate: the smallest mean training objective after the trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

MAX_EXTENSIONS = 2  # how often the search tries two rates more when the best is the smallest or the largest
FIRST_TRIAL_SEED = 1_000_000  # trials share no seed with the runs


def best_rate(trials: Sequence[dict[str, Any]], rates: Sequence[float]) -> tuple[float, float]:
    """Choose the rate whose trials ended with the smallest mean objective.

    Args:
        trials: rows with "rate" and "objective"; an objective that is NaN counts as infinite.
        rates: those to choose from; other trials are left out.

    Returns:
        The rate and its mean objective, which is infinite where training diverged at every rate.

    Examples:
        >>> trials = [{"rate": 0.1, "objective": 2.0}, {"rate": 1.0, "objective": 1.0}]
        >>> best_rate(trials, [0.1, 1.0])
        (1.0, 1.0)
    """
    table = pd.DataFrame(trials).fillna({"objective": math.inf})
    means = table[table["rate"].isin(rates)].groupby("rate")["objective"].mean()
    return float(means.index[int(np.argmin(means.to_numpy()))]), float(means.min())


def extend_rates(rates: Sequence[float], best: float) -> list[float]:
    """Add two rates beyond the best, where it is the smallest or the largest that was tried.

    Args:
        rates: those that were tried, in ascending order.
        best: one of them.

    Returns:
        The rates to try, in ascending order: the same ones where the best lies inside.

    Examples:
        >>> extend_rates([1.0, 2.0], 2.0)
        [1.0, 2.0, 4.0, 8.0]
        >>> extend_rates([1.0, 2.0, 4.0], 2.0)
        [1.0, 2.0, 4.0]
    """
    at = rates.index(best)
    if 0 < at < len(rates) - 1:
        return list(rates)
    factor = rates[0] / rates[1] if at == 0 else rates[-1] / rates[-2]
    return sorted([*rates, best * factor, best * factor**2])
