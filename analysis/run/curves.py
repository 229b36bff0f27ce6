"""Curves: accuracy of the mean of M draws against M, and the fit of bias² + variance/M to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.measures import mean_square, relative
from gradeval.analysis.run.record import EXACT_COLUMNS
from gradeval.analysis.statistics import ENDS, UNKNOWN, Array, Interval

MIN_BLOCKS = 20
"""A mean or a quantile of fewer blocks is not shown."""
_Z = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class Blocks:
    """Statistics over blocks, each the mean of M draws, of [squared errors, cosines] in K layers.

    Attributes:
        samples: M.
        count: number of blocks.
        mean, variance: over the blocks, [2K]; variance 0 for a deterministic estimator.
        quantiles: 15 % and 85 % quantiles of the cosine, [2, K].
    """

    samples: int
    count: int
    mean: Array
    variance: Array
    quantiles: Array


def curve_rows(
    name: str, layers: Sequence[str], norms: Array, blocks: Blocks, found: Mapping[str, tuple[Interval, Interval]]
) -> list[dict[str, Any]]:
    """The rows of the curves for one estimator and one M.

    Args:
        name: of the estimator.
        layers: names of the K layers.
        norms: ‖g*‖ of each, [K].
        blocks: their statistics.
        found: root-mean-square error and mean cosine of each layer.

    Returns:
        One row per layer; the errors and cosines of the blocks alone stand beside what was found.
    """
    rows = []
    samples, count, k = blocks.samples, blocks.count, len(layers)
    for i, layer in enumerate(layers):
        rmse, cosine = found[layer]
        mse, mse_se = blocks.mean[i], np.sqrt(blocks.variance[i] / count)
        row: dict[str, Any] = {"estimator": name, "layer": layer, "samples": samples, "blocks": count}
        row |= cosine.columns("cosine")
        row |= {"cosine_q15": blocks.quantiles[0, i], "cosine_q85": blocks.quantiles[1, i]}
        row |= {"blocks_cosine": blocks.mean[k + i], "blocks_cosine_se": np.sqrt(blocks.variance[k + i] / count)}
        row |= relative(rmse, norms[i]).columns("relative_rmse")
        row |= {"blocks_rmse": relative(math.sqrt(mse), norms[i]) if norms[i] > 0 else math.nan}
        row |= {"blocks_rmse_se": mse_se / (2 * math.sqrt(mse) * norms[i]) if mse > 0 and norms[i] > 0 else 0.0}
        rows.append(row)
    return rows


CURVE_COLUMNS = list(
    curve_rows(
        "", [""], np.ones(1), Blocks(1, 2, np.zeros(2), np.zeros(2), np.zeros((2, 1))), {"": (UNKNOWN, UNKNOWN)}
    )[0],
)


def best_curves(curves: pd.DataFrame, exact_moments: pd.DataFrame) -> pd.DataFrame:
    """The curves with √(bias² + variance/M), relative, without an interval, where the exact moments are known.

    Args:
        curves: of a run.
        exact_moments: of the run.

    Returns:
        The same rows, and a column ``exact``: whether the error of the row is exact.
    """
    keys = ["estimator", "layer"]
    table = curves.merge(exact_moments.astype(dict.fromkeys(EXACT_COLUMNS[2:], float)), on=keys, how="left")
    square = mean_square(table["exact_relative_bias"], table["exact_relative_variance"], table["samples"])
    for end in ENDS:
        table[f"relative_rmse{end}"] = np.sqrt(square).where(square.notna(), table[f"relative_rmse{end}"])
    return table[list(curves.columns)].assign(exact=square.notna())


def fit_table(curves: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """RMSE²(M) = bias² + variance/M by weighted least squares on 1/M, beside the direct figures.

    It is fitted to the errors of blocks of M draws, not to what follows from the moments: so it tests the formula.

    The weights are M: the mean of n/M squared errors has variance 2 tr Σ²/Mn where variance prevails. Estimated
    ones would favour the points that happen to be low, since with rare large draws these have low errors too.

    Args:
        curves: of a run.
        summary: of the run.

    Returns:
        One row per estimator × layer whose curve has at least three numbers of samples, with errors.
    """
    from statsmodels.regression.linear_model import WLS

    rows = []
    direct = summary.set_index(["estimator", "layer"])
    for (name, layer), curve in curves.groupby(["estimator", "layer"], sort=False):
        if curve["samples"].nunique() < 3 or not (curve["blocks_rmse_se"] > 0).all():
            continue
        design = np.column_stack([np.ones(len(curve)), 1 / curve["samples"]])
        error = np.asarray(2 * curve["blocks_rmse"] * curve["blocks_rmse_se"])
        weights = np.asarray(curve["samples"], dtype=float)
        model = WLS(np.asarray(curve["blocks_rmse"] ** 2), design, weights=weights)
        square, variance = np.asarray(model.fit().params)
        # all points of a curve come from the same draws: an interval that holds for any correlation among them
        half = _Z * np.abs(np.asarray(model.pinv_wexog) * np.sqrt(weights)) @ error
        row = {"estimator": name, "layer": layer}
        row |= {key: direct.at[(name, layer), key] for key in ("relative_bias", "relative_variance")}
        bias = Interval(square, square - half[0], square + half[0]).map(lambda v: math.sqrt(max(v, 0.0)))
        row |= bias.columns("wls_relative_bias")
        row |= Interval(variance, variance - half[1], variance + half[1]).columns("wls_relative_variance")
        rows.append(row)
    return pd.DataFrame(rows)
