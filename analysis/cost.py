"""How the cost of estimators grows with depth and width: exponents with intervals, and a figure. Numbers in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import statsmodels.api as sm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradeval.analysis.figures import (
    _legend,
    paper_style,
    styles,
)

QUANTITIES = {
    "evaluations": "evaluations of a layer or the loss per point",
    "flops": "FLOPs",
    "seconds": "seconds",
}


def fit_exponents(table: pd.DataFrame, quantities: Sequence[str] = tuple(QUANTITIES)) -> pd.DataFrame:
    """The exponent p of cost ~ sizeᵖ for each estimator, axis and quantity, with its 95 % interval.

    Least squares of log cost on 1, log size and, where there are points enough, 1/size and 1/size²: costs are polynomials of the
    size, and log(bLᵖ + cLᵖ⁻¹ + …) = log b + p log L + c/(bL) + … Timings, which are noisy, are fitted without the corrections.

    Returns:
        Columns estimator, axis, quantity, exponent, exponent_low, exponent_high.
    """
    rows = []
    for (estimator, axis), group in table.groupby(["estimator", "axis"], sort=False):
        size = group["size"].to_numpy(dtype=float)
        for quantity in quantities:
            columns = [np.ones_like(size), np.log(size)]
            if quantity != "seconds" and len(size) >= 6:
                columns += [1 / size, 1 / size**2]
            cost = group[quantity].to_numpy(dtype=float)
            fit = sm.OLS(np.log(cost), np.column_stack(columns)).fit()
            low, high = fit.conf_int()[1]
            rows.append((estimator, axis, quantity, fit.params[1], low, high))
    names = ["estimator", "axis", "quantity", "exponent", "exponent_low", "exponent_high"]
    return pd.DataFrame(rows, columns=names)


def scaling_figure(table: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Cost against depth and against width on logarithmic axes, a panel for each quantity; the legend has exponents."""
    names = list(dict.fromkeys(table["estimator"]))
    looks = styles(names)
    with paper_style():
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        panels = figure.subplots(2, len(QUANTITIES), squeeze=False)
        for axes, axis in zip(panels, ("depth", "width"), strict=True):
            rows = table[table["axis"] == axis]
            for ax, (quantity, label) in zip(axes, QUANTITIES.items(), strict=True):
                _panel(ax, rows, fits[(fits["axis"] == axis) & (fits["quantity"] == quantity)], quantity, looks)
                ax.set_xlabel("layers" if axis == "depth" else "units of a layer")
                ax.set_ylabel(label)
        _legend(figure, {n: Line2D([], [], color=looks[n].colour, marker=looks[n].marker) for n in names})
    return figure
