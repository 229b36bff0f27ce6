"""How the cost of estimators grows with depth and width: exponents with intervals, and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterMathtext

from gradeval.analysis.drawing import USUAL, Drawing, GivenAxes, Look, Panels, chosen
from gradeval.analysis.plotting import FIGURE_FORMATS, letters, log_axis, log_limits, render, tidy
from gradeval.files import write_whole

QUANTITIES = {
    "evaluations": "layer and loss evaluations",
    "flops": "FLOPs",
    "seconds": "seconds",
}


LEGEND = "at the end of a line: the exponent p of cost ~ sizeᵖ"


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


def scaling_figure(table: pd.DataFrame, fits: pd.DataFrame, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw cost against depth and against width on logarithmic axes, a panel for each quantity, lines with exponents.

    Args:
        table: as of `fit_exponents`, for both axes.
        fits: its exponents.
        drawing: which estimators and panels ("depth, evaluations", "depth, flops", … "width, seconds"), and how they
            look.
        ax: axes of your own, one for each panel. By default a new figure is made.

    Returns:
        The axes by panel.
    """
    every = list(dict.fromkeys(table["estimator"]))
    look = drawing.look(every, dict.fromkeys(every, True))
    kinds = {f"{axis}, {quantity}": (axis, quantity) for axis in ("depth", "width") for quantity in QUANTITIES}
    keys = chosen("panel", drawing.panels, list(kinds), list(kinds))
    with drawing.settings(ax):
        columns = min(len(keys), len(QUANTITIES))
        size = 2.4 * columns, 2.3 * math.ceil(len(keys) / columns)
        panels = Panels.open(keys, drawing, ax, size, columns)
        for key, panel in panels.items():
            axis, quantity = kinds[key]
            rows = table[(table["axis"] == axis) & table["estimator"].isin(look.names)]
            _panel(panel, rows, fits[(fits["axis"] == axis) & (fits["quantity"] == quantity)], quantity, look)
            panel.set_xlabel("layers" if axis == "depth" else "units of a layer")
            panel.set_ylabel(QUANTITIES[quantity])
        return panels.finish(drawing, {name: look.entry(name, line=True) for name in look.names}, LEGEND)


def _panel(ax: Axes, rows: pd.DataFrame, fits: pd.DataFrame, quantity: str, look: Look) -> None:
    limits = [_size_limits(rows["size"]), log_limits(rows[quantity], room=1.5)]
    for name, (low, high) in zip("xy", limits, strict=True):
        log_axis(ax, name, low, high)
    ax.yaxis.set_major_formatter(LogFormatterMathtext())
    shown = fits["exponent"].where(are_supported(fits)).set_axis(fits["estimator"]).round(2) + 0.0  # no −0
    exponents = shown.map(lambda p: "?" if np.isnan(p) else f"{p:.2f}")
    curves = {str(name): curve for name, curve in rows.groupby("estimator", sort=False)}
    ends = {}
    for number, (name, curve) in enumerate(curves.items()):
        line, cost = look.line(name), curve[quantity].to_numpy(float)
        later = list(curves.values())[number + 1 :]
        under = sum(np.array_equal(cost, other[quantity].to_numpy(float)) for other in later)
        line |= {"linewidth": 1.2 + 1.6 * under, "markersize": line["markersize"] + 3.0 * under}  # shows around them
        ax.plot(curve["size"], cost, label=look.label(name), **line)
        last = (curve["size"].iloc[-1], cost[-1])
        ends[name] = [np.log(v / low) / np.log(high / low) for v, (low, high) in zip(last, limits, strict=True)]
    below = -1.0
    for name, (x, y) in sorted(ends.items(), key=lambda end: end[1][1]):  # each above the one before
        below = max(y, below + 0.065)
        place, colour = (x + 0.03, below), look.styles[name].colour
        ax.text(*place, exponents[name], transform=ax.transAxes, color=colour, fontsize=letters(6.5), va="center")
    tidy(ax)


def _size_limits(sizes: pd.Series) -> tuple[float, float]:
    """Close to the sizes, with room for the exponents, where a round number is between them; else a decade."""
    low, high = float(sizes.min()) / 1.15, float(sizes.max()) * 1.35
    return (low, high) if high > 2.5 * low else log_limits(sizes, room=1.2)


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
    figure = scaling_figure(table, fits).figure
    assert figure is not None
    paths = [folder / f"scaling.{extension}" for extension in formats]
    for path in paths:
        write_whole(path, render(figure, path.suffix[1:]))
    return paths
