"""The time of one draw: an estimate from timed batches of draws, and an interval that knows that machines drift."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.statistics import ENDS, Array, Interval, positive_mean_interval

FEWEST_BLOCKS = 4  # of successive batches, of which a variance is taken
TIMING = "seconds_per_draw"
"""The entry of the manifest's timings, and the column; the ends of the interval have the same name with an ending."""


def time_of_draw(times: Array) -> Interval:
    """The mean time of a draw with an interval that also covers slow changes of the machine's speed.

    Times that follow each other are alike: a machine is busy for a while. So the error is taken from blocks of 1, 2,
    4, … successive batches, with as many degrees of freedom as blocks less one, as long as there are `FEWEST_BLOCKS`;
    the widest of these intervals is returned.

    Args:
        times: of each timed batch in the order in which they were made, number of draws and seconds, [batches, 2].

    Returns:
        Seconds of a draw. NaN for what cannot be known: the ends of an interval from a single batch.

    Examples:
        >>> time_of_draw(np.array([[10.0, 0.5], [10.0, 0.5]]))
        Interval(estimate=0.05, low=0.05, high=0.05)
    """
    draws, seconds = times[:, 0], times[:, 1]
    if not draws.sum() > 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(seconds.sum() / draws.sum())
    if len(times) < 2:
        return Interval(mean, math.nan, math.nan)
    widest, size = Interval(mean, mean, mean), 1
    while size == 1 or len(times) // size >= FEWEST_BLOCKS:
        blocks = np.array_split(np.arange(len(times)), len(times) // size)
        count = len(blocks)
        # the error of a ratio of two sums
        residuals = np.array([float(seconds[b].sum() - mean * draws[b].sum()) for b in blocks])
        error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / float(draws.sum())
        found = positive_mean_interval(mean, error, count)
        if found.high > widest.high:
            widest = found
        size *= 2
    return widest


def timing_entries(times: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """The times of draws as entries of a manifest.

    Args:
        times: by estimator.

    Returns:
        `TIMING`, and the same with the endings of an interval's ends: the numbers that are known, by estimator.

    Examples:
        >>> timing_entries({"st": Interval(2.0, 1.0, math.nan)})
        {'seconds_per_draw': {'st': 2.0}, 'seconds_per_draw_low': {'st': 1.0}, 'seconds_per_draw_high': {}}
    """
    entries: dict[str, dict[str, float]] = {f"{TIMING}{end}": {} for end in ENDS}
    for name, interval in times.items():
        for key, value in interval.columns(TIMING).items():
            if math.isfinite(value):
                entries[key][name] = value
    return entries


def times_of(timings: Mapping[str, Any], name: str) -> Interval:
    """The time of an estimator's draw from a manifest's timings.

    Args:
        timings: the entry of the manifest; older ones have no intervals.
        name: of the estimator.

    Returns:
        The interval; NaN for what is not there.

    Examples:
        >>> times_of({"seconds_per_draw": {"st": 2.0}}, "st")
        Interval(estimate=2.0, low=nan, high=nan)
    """
    return Interval(*(timings.get(f"{TIMING}{end}", {}).get(name, math.nan) for end in ENDS))


def timing_table(timings: Mapping[str, Any]) -> pd.DataFrame:
    """The times of draws as a table.

    Args:
        timings: the entry of the manifest.

    Returns:
        One row for each estimator: its name, the time, and the ends of the interval.

    Examples:
        >>> timing_table({"seconds_per_draw": {"st": 2.0}}).columns.tolist()
        ['estimator', 'seconds_per_draw', 'seconds_per_draw_low', 'seconds_per_draw_high']
    """
    names = list(timings.get(TIMING, {}))
    rows = [{"estimator": name, **times_of(timings, name).columns(TIMING)} for name in names]
    return pd.DataFrame(rows, columns=["estimator", *(f"{TIMING}{end}" for end in ENDS)])
