"""Two estimators of a run compared in pairs: they had the same random numbers in the same block of draws.

Hundreds of estimators have ten thousands of pairs, so columns are computed as a whole.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from gradeval.analysis.hypotheses import holm
from gradeval.analysis.run.estimates import unseen
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.record import Record
from gradeval.analysis.statistics import ENDS, LEVEL, UNKNOWN, Array, mean_interval

FIGURES = ("square", "variance")
PAIR_COLUMNS = ["one", "two", "layer", *(column for key in FIGURES for column in UNKNOWN.columns(key))]
INTERVAL_ENDS = 1.959963984540054  # standard errors in half of a 95 % interval
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
    columns = [*PAIR_COLUMNS, "pvalue", "pvalue_adjusted", "exact"]
    figures = best.set_index(["layer", "estimator"])
    layers = [layer for layer in record.slices if record.norms[layer]]
    if len(record.moments) < 2 or not layers:
        return pd.DataFrame([], columns=columns)
    table = pd.concat([_of_layer(record, figures.loc[layer], layer) for layer in layers], ignore_index=True)
    return table.assign(pvalue_adjusted=holm(table["pvalue"]))[columns]


def _of_layer(record: Record, figures: pd.DataFrame, layer: str) -> pd.DataFrame:
    """All pairs in one layer; the p-values are not adjusted."""
    names = np.array(list(record.moments), dtype=object)
    figures, norm = figures.loc[list(names)], record.norms[layer] ** 2
    first, second = np.triu_indices(len(names), 1)
    known = figures["exact"].to_numpy(bool)
    exact = known[first] & known[second]
    squares, variances = figures["relative_rmse"].to_numpy() ** 2, figures["relative_variance"].to_numpy()
    # what rare states may be missing in the mean square of the second, and of the first
    level, moments = (1 - LEVEL) / 2, record.moments.items()
    unseen_of = [unseen(record.rare_of(name), m, layer, level).square / norm for name, m in moments]
    below, above = np.array(unseen_of)[second], np.array(unseen_of)[first]
    mean, error, count = _differences(_parts(record, layer), norm)
    low, high = _quantiles(count)
    if record.reference is not None:
        size = record.reference.norm(layer)
        share = (size.high - size.low) / size.estimate / INTERVAL_ENDS  # of the squared norm, that all is divided by
        error = np.hypot(error, share * np.abs(mean))
        error[0] = np.hypot(error[0], _of_reference(list(record.moments.values()), layer)[first, second] / norm)
    table = pd.DataFrame({"one": names[first], "two": names[second], "layer": layer, "exact": exact})
    with np.errstate(divide="ignore", invalid="ignore"):
        for k, (key, values) in enumerate(zip(FIGURES, (squares, variances), strict=True)):
            ends = (mean[k], mean[k] + low * error[k] - below, mean[k] + high * error[k] + above)
            for end, sampled in zip(ENDS, ends, strict=True):
                table[f"{key}{end}"] = np.where(exact, values[first] - values[second], sampled)
        excess = np.maximum(np.maximum(mean[0] - below, -mean[0] - above), 0.0)
        pvalue = np.where(error[0] > 0, 2 * stats.t.sf(excess / error[0], count - 1), excess == 0)
    same = np.abs(squares[first] - squares[second]) <= ROUNDING * squares[first]
    return table.assign(pvalue=np.where(exact, same, pvalue))


def _of_reference(moments: list[Moments], layer: str) -> Array:
    """What the error of r̄ adds to that of a difference of squared errors: 2√(vᵀCv), v = b₁ − b₂, [of all pairs].

    At size it is no more than 2√(b₁ᵀCb₁) + 2√(b₂ᵀCb₂), which is taken.
    """
    second = moments[0].second
    assert second is not None
    if second.reference.covariance is None:
        sizes = np.array([math.sqrt(m.second.quadratic(layer, 1.0, 0.0)) if m.second else 0.0 for m in moments])
        return 2 * (sizes[:, None] + sizes)
    biases = np.stack([m.bias(layer) for m in moments])
    products = biases @ second.reference.of_layer(layer) @ biases.T
    own = np.diag(products)
    found: Array = 2 * np.sqrt(np.maximum(0.0, own[:, None] + own - 2 * products))
    return found


def _parts(record: Record, layer: str) -> list[Array]:
    """Of each estimator its blocks' squared errors and variances, [2, blocks]; of a deterministic one there is one."""
    return [
        np.array([[float(m.bias(layer) @ m.bias(layer))], [0.0]]) if m.deterministic else m.blocks_of(layer).T
        for m in record.moments.values()
    ]


def _differences(parts: list[Array], norm: float) -> tuple[Array, Array, Array]:
    """Of every pair the mean difference of its blocks and the standard error, [2, pairs], and their number, [pairs].

    One block stands against all of the other's; else those that both have are compared.
    """
    rows, lengths = [], np.array([part.shape[1] for part in parts])
    for i, mine in enumerate(parts[:-1]):
        found = np.empty((5, len(parts) - i - 1))
        for length in set(lengths[i + 1 :]):
            alike = np.flatnonzero(lengths[i + 1 :] == length)
            others = np.stack([parts[i + 1 + j] for j in alike])
            count = max(length, mine.shape[1]) if 1 in (length, mine.shape[1]) else min(length, mine.shape[1])
            apart = np.ascontiguousarray((mine[:, :count] - others[..., :count]) / norm)
            found[:2, alike] = apart.mean(-1).T
            spread = apart.std(-1, ddof=1).T / math.sqrt(count) if count > 1 else math.inf
            found[2:4, alike], found[4, alike] = spread, count
        rows.append(found)
    together = np.concatenate(rows, 1)
    return together[:2], together[2:4], together[4]


def _quantiles(counts: Array) -> tuple[Array, Array]:
    """Ends of Student's interval of a mean of so many values, in standard errors."""
    known = {count: mean_interval(0.0, 1.0, int(count)) for count in set(counts.tolist())}
    low, high = ([getattr(known[count], end) for count in counts.tolist()] for end in ("low", "high"))
    return np.array(low), np.array(high)
