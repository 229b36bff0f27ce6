"""Two estimators of a run compared in pairs: they had the same random numbers in the same block of draws."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gradeval.analysis.hypotheses import holm
from gradeval.analysis.run.estimates import unseen
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.record import Record
from gradeval.analysis.statistics import LEVEL, UNKNOWN, Array, Interval, mean_interval

PAIR_COLUMNS = ("one", "two", "layer")
ROUNDING = 1e-9  # relative; exact figures that differ by less are the same


def pair_table(record: Record, best: pd.DataFrame) -> pd.DataFrame:
    """Differences of the squared error and of the variance of one draw between any two estimators, by layer.

    Exact figures are subtracted where both are known. Else the differences of block means are averaged: what the common
    random numbers do to both estimators cancels. Student's interval over the blocks.

    Args:
        record: of the run.
        best: the summary with the best known figures, see `best_known`.

    Returns:
        One row per layer × pair: RMSE² of the first less that of the second, relative to ‖g*‖², the same for the
        variance, and the p-value of the first, adjusted by Holm's method over all pairs and layers.
    """
    figures = best.set_index(["layer", "estimator"])
    rows = []
    for layer in record.slices:
        if not record.norms[layer]:
            continue
        pairs = itertools.combinations(record.moments, 2)
        rows += [_pair(record, figures.loc[layer], one, two, layer) for one, two in pairs]
    adjusted = holm([row["pvalue"] for row in rows])
    rows = [row | {"pvalue_adjusted": value} for row, value in zip(rows, adjusted, strict=True)]
    columns = [*PAIR_COLUMNS, *UNKNOWN.columns("square"), *UNKNOWN.columns("variance")]
    return pd.DataFrame(rows, columns=[*columns, "pvalue", "pvalue_adjusted", "exact"])


def _pair(record: Record, figures: pd.DataFrame, one: str, two: str, layer: str) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(PAIR_COLUMNS, (one, two, layer), strict=True))
    a, b = figures.loc[one], figures.loc[two]
    if a["exact"] and b["exact"]:
        square = float(a["relative_rmse"] ** 2 - b["relative_rmse"] ** 2)
        variance = float(a["relative_variance"] - b["relative_variance"])
        row |= Interval(square, square, square).columns("square")
        row |= Interval(variance, variance, variance).columns("variance")
        return row | {"pvalue": float(abs(square) <= ROUNDING * a["relative_rmse"] ** 2), "exact": True}
    norm = record.norms[layer] ** 2
    above, below = (unseen(record.rare, record.moments[name], layer, (1 - LEVEL) / 2)[1] / norm for name in (one, two))
    difference = _difference(record.moments[one], record.moments[two], layer) / norm
    count = len(difference)
    for key, values in zip(("square", "variance"), difference.T, strict=True):
        mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
        found = mean_interval(mean, error, count)
        row |= Interval(mean, found.low - below, found.high + above).columns(key)
        if key == "square":
            excess = max(mean - below, -mean - above, 0.0)
            row["pvalue"] = 2 * float(stats.t.sf(excess / error, count - 1)) if error > 0 else float(excess == 0)
    return row | {"exact": False}


def _difference(one: Moments, two: Moments, layer: str) -> Array:
    """Differences of the blocks' squared errors and variances, [blocks, 2]; one row for deterministic estimators."""
    parts = [
        np.array([[float(m.bias(layer) @ m.bias(layer)), 0.0]]) if m.deterministic else m.blocks_of(layer)
        for m in (one, two)
    ]
    if one.deterministic == two.deterministic:
        count = min(map(len, parts))
        return parts[0][:count] - parts[1][:count]
    return np.subtract(*parts)
