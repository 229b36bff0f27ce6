"""How the cost of estimators grows with depth and width: exponents with intervals, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogFormatterMathtext

from gradeval.analysis.plotting import (
    FIGURE_FORMATS,
    Style,
    add_legend,
    log_axis,
    log_limits,
    paper_style,
    render,
    styles,
    tidy,
)
from gradeval.files import write_whole

QUANTITIES = {
    "evaluations": "layer and loss evaluations",
    "flops": "FLOPs",
    "seconds": "seconds",
}


def fit_exponents(table: pd.DataFrame, quantities: Sequence[str] = tuple(QUANTITIES)) -> pd.DataFrame:
    """The exponent p of cost ~ sizeᵖ for each estimator, axis and quantity, with an interval.

    Timings: least squares of log cost on 1 and log size, and the 95 % interval of the slope.

    Counts have no noise; they are polynomials of the size, log(bLᵖ + cLᵖ⁻¹ + …) = log b + p log L + c/(bL) + …, so
    1/size and 1/size² are fitted, too. What is left is the truncation of that series: the interval is that of the fit,
    widened by how much the last correction moved the exponent.

    Args:
        table: columns estimator, axis, size, and the quantities.
        quantities: columns whose growth is fitted.

    Returns:
        Columns estimator, axis, quantity, exponent, exponent_low, exponent_high.

    Examples:
        >>> sizes = [4.0, 8.0, 16.0]
        >>> table = pd.DataFrame({"estimator": "st", "axis": "depth", "size": sizes, "seconds": [16.0, 64.0, 256.0]})
        >>> round(float(fit_exponents(table, ["seconds"])["exponent"].iloc[0]), 6)
        2.0
    """
    rows = []
    for (estimator, axis), group in table.groupby(["estimator", "axis"], sort=False):
        size = group["size"].to_numpy(dtype=float)
        columns = [np.ones_like(size), np.log(size), 1 / size, 1 / size**2]
        for quantity in quantities:
            log_cost = np.log(group[quantity].to_numpy(dtype=float))
            counted = quantity != "seconds" and len(size) >= 6
            fit = sm.OLS(log_cost, np.column_stack(columns if counted else columns[:2])).fit()
            low, high = fit.conf_int()[1] if fit.df_resid > 0 else (-np.inf, np.inf)
            if counted:
                moved = abs(fit.params[1] - sm.OLS(log_cost, np.column_stack(columns[:3])).fit().params[1])
                low, high = low - moved, high + moved
            rows.append((estimator, axis, quantity, fit.params[1], low, high))
    names = ["estimator", "axis", "quantity", "exponent", "exponent_low", "exponent_high"]
    return pd.DataFrame(rows, columns=names)


def are_supported(fits: pd.DataFrame) -> pd.Series:
    """Which exponents the data support: those whose interval is narrower than the distance of two whole numbers.

    Noisy timings, or too few sizes, leave others open. Only supported exponents are shown.

    Args:
        fits: as `fit_exponents` returns them.

    Returns:
        For each row, whether it is.

    Examples:
        >>> fits = pd.DataFrame({"exponent_low": [0.9, -13.5], "exponent_high": [1.1, 9.9]})
        >>> are_supported(fits).tolist()
        [True, False]
    """
    return fits["exponent_high"] - fits["exponent_low"] < 1


def scaling_figure(table: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Draw cost against depth and against width on logarithmic axes, a panel for each quantity, lines with exponents.

    Args:
        table: as of `fit_exponents`, for both axes.
        fits: its exponents.

    Returns:
        The figure.
    """
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
        add_legend(figure, {n: Line2D([], [], color=looks[n].colour, marker=looks[n].marker) for n in names})
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, fits: pd.DataFrame, quantity: str, looks: dict[str, Style]) -> None:
    limits = [log_limits(rows["size"], room=1.2), log_limits(rows[quantity], room=1.5)]
    for name, (low, high) in zip("xy", limits, strict=True):
        log_axis(ax, name, low, high)
    ax.xaxis.set_major_locator(FixedLocator(_round(sorted(set(rows["size"])))))
    ax.yaxis.set_major_formatter(LogFormatterMathtext())
    shown = fits["exponent"].where(are_supported(fits)).set_axis(fits["estimator"]).round(2) + 0.0  # no −0
    exponents = shown.map(lambda p: "?" if np.isnan(p) else f"{p:.2f}")
    ends = {}
    for name, curve in rows.groupby("estimator", sort=False):
        look = looks[str(name)]
        ax.plot(curve["size"], curve[quantity], color=look.colour, marker=look.marker, markersize=3.5)
        last = (curve["size"].iloc[-1], curve[quantity].iloc[-1])
        ends[str(name)] = [np.log(v / low) / np.log(high / low) for v, (low, high) in zip(last, limits, strict=True)]
    below = -1.0
    for name, (x, y) in sorted(ends.items(), key=lambda end: end[1][1]):  # each above the one before
        below = max(y, below + 0.065)
        place, text = (x + 0.03, below), exponents[name]
        ax.text(*place, text, transform=ax.transAxes, color=looks[name].colour, fontsize=6.5, va="center")
    tidy(ax)


def _round(sizes: list[float]) -> list[float]:
    """Where the ticks are: at 1, 2, 5, 10, … where two of the sizes are such, else at every second size."""
    found = [size for size in sizes if f"{size:.0e}"[0] in "125" and float(f"{size:.0e}") == size]
    return found if len(found) > 1 else sizes[::2]


def save_scaling(
    table: pd.DataFrame, fits: pd.DataFrame, folder: Path, formats: Sequence[str] = FIGURE_FORMATS
) -> list[Path]:
    """Write the figure, named ``scaling``.

    Args:
        table: as of `fit_exponents`, for both axes.
        fits: its exponents.
        folder: must exist.
        formats: the endings of the files.

    Returns:
        The paths of the files.
    """
    figure = scaling_figure(table, fits)
    paths = [folder / f"scaling.{extension}" for extension in formats]
    for path in paths:
        write_whole(path, render(figure, path.suffix[1:]))
    return paths
