"""Figures of a run's tables: bias and variance of one draw, break-even, variance reduction, and the data."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradeval.analysis.numbers import duration, layer_title
from gradeval.analysis.plotting import (
    NOISE_FLOOR,
    ORANGE,
    add_legend,
    log_axis,
    log_limits,
    mark_empty,
    paper_style,
    printable,
    tidy,
)
from gradeval.analysis.run.panels import Look, add_estimator_legend, among, layer_panels
from gradeval.analysis.run.points import some_points
from gradeval.analysis.statistics import ENDS

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation


def bias_variance_plane(run: Evaluation) -> Figure:
    """Draw the relative bias against the relative standard deviation of one draw.

    Args:
        run: its tables are read.

    Returns:
        The figure.
    """
    look = Look.of(run)
    table = run.best.assign(
        **{f"deviation{end}": np.sqrt(run.best[f"relative_variance{end}"].clip(lower=0)) for end in ENDS},
    )
    table = among(table, look.names, "estimator")
    table = table[table["layer"].isin(look.layers)]
    table = table[np.isfinite(table["relative_bias"]) & np.isfinite(table["deviation"])]
    left, right = log_limits(table["deviation"], table["deviation_low"], table["deviation_high"])
    hidden = ~table["bias_seen"]  # only the upper end says something
    bottom, top = log_limits(
        table["relative_bias"][~hidden], table["relative_bias_low"][~hidden], table["relative_bias_high"], room=2.5
    )
    with paper_style():
        figure, axes = layer_panels(look)
        angle = np.arctan(np.geomspace(1e-6, 1e6, 400))
        for layer, ax in axes.items():
            log_axis(ax, "x", left, right)
            log_axis(ax, "y", bottom, top)
            for error in sorted({*ax.get_xticks(), *ax.get_yticks()}):
                ax.plot(error * np.cos(angle), error * np.sin(angle), color="0.75", linewidth=0.6, zorder=0.5)
                _name_error(ax, error)
            rows = table[table["layer"] == layer]
            if rows.empty:
                mark_empty(ax)
            for place, row in rows.iterrows():
                x = np.clip([row["deviation_low"], row["deviation"], row["deviation_high"]], left, right)
                y = np.clip([row["relative_bias_low"], row["relative_bias"], row["relative_bias_high"]], bottom, top)
                style = {**look.marker(row["estimator"]), "linestyle": "none", "elinewidth": 0.8, "clip_on": False}
                across = [[max(0.0, x[1] - x[0])], [max(0.0, x[2] - x[1])]]
                if hidden[place] and y[2] > bottom:
                    ax.errorbar(x[1], y[2], xerr=across, yerr=y[2] * 0.45, uplims=True, **style)
                else:
                    along = [[max(0.0, y[1] - y[0])], [max(0.0, y[2] - y[1])]]
                    ax.errorbar(x[1], y[1], xerr=across, yerr=along, **style)
        figure.supxlabel("relative standard deviation of one draw, √(tr Σ) / ‖g*‖")
        figure.supylabel("relative bias, ‖E g − g*‖ / ‖g*‖")
        add_estimator_legend(figure, look, [n for n in look.names if n in set(table["estimator"])], lines=False)
    return figure


def _name_error(ax: Axes, error: float) -> None:
    """Write at a curve of equal RMSE what that is, inside its bend, or where the curve leaves the panel."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    x, y = (min(error / math.sqrt(2), end / 1.1) for end in (right, top))
    if y < error / math.sqrt(2):
        x = math.sqrt(error**2 - y**2)
    elif x < error / math.sqrt(2):
        y = math.sqrt(error**2 - x**2)
    if left * 1.5 < x < right and bottom * 1.5 < y < top:
        words: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 6, "color": "0.5", "zorder": 0.6}
        ax.text(x / 1.04, y / 1.04, f"RMSE {error:g}", **words)


def heat_map(run: Evaluation) -> Figure:
    """Show relative bias and relative RMSE of one draw as numbers, estimator by layer.

    Args:
        run: its tables are read.

    Returns:
        The figure.
    """
    look = Look.of(run)

    def matrix(column: str) -> pd.DataFrame:
        table = run.best.pivot(index="estimator", columns="layer", values=column)
        return table.loc[look.names, look.layers].astype(float)

    bias, seen, high, rmse = map(matrix, ("relative_bias", "bias_seen", "relative_bias_high", "relative_rmse"))
    unseen = (seen == 0) & np.isfinite(high)  # as the verdicts say, which share an error rate
    upper = high.map(lambda value: "0" if value <= NOISE_FLOOR else f"<{_short(value)}")
    words = bias.map(_short).where(~unseen, upper)
    with paper_style():
        width = 1.7 + 2 * max(1.2, 0.47 * len(look.layers))
        figure = Figure(figsize=(width, 1.0 + 0.21 * len(look.names)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for ax, values, text, title in (
            (panels[0], bias.where(~unseen), words, "relative bias"),
            (panels[1], rmse, rmse.map(_short), "relative RMSE of one draw"),
        ):
            _draw_cells(ax, values, text)
            ax.set(xlabel="layer", ylabel="", title=title)
            ax.set_xticks(np.arange(len(look.layers)) + 0.5, look.layers, parse_math=False)
            ax.tick_params(length=0)
        panels[0].set_yticks(np.arange(len(look.names)) + 0.5, [printable(n) for n in look.names], parse_math=False)
    return figure


def _draw_cells(ax: Axes, values: pd.DataFrame, words: pd.DataFrame) -> None:
    """A table of words, coloured by its numbers on a logarithmic scale; light enough for black letters everywhere."""
    least, most = log_limits(values.where(np.isfinite(values)).stack())
    looks: dict[str, Any] = {"cmap": sns.light_palette(ORANGE, as_cmap=True), "norm": LogNorm(least, most, clip=True)}
    sns.heatmap(
        values, ax=ax, vmin=least, vmax=most, cbar=False, linewidths=0.8, xticklabels=False, yticklabels=False, **looks
    )
    for (row, column), word in np.ndenumerate(words.to_numpy()):
        ax.text(column + 0.5, row + 0.5, word, ha="center", va="center", fontsize=6.5)


def _short(value: float) -> str:
    """Two significant digits in a cell: 0.034, 1.2, 87, 2e-5; a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    if abs(value) < NOISE_FLOOR:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e4:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"


def break_even_chart(run: Evaluation) -> Figure | None:
    """Draw from how many draws, and seconds, on an unbiased estimator is more accurate than a biased one.

    Args:
        run: its tables are read.

    Returns:
        The figure; None where the run has nothing to show.
    """
    look, table = Look.of(run), run.breakeven
    table = among(table[(table["layer"] == "all") & table["draws"].notna()], look.names, "biased", "unbiased")
    if table.empty:
        return None
    biased = [name for name in look.names if name in set(table["biased"])]
    unbiased = [name for name in look.names if name in set(table["unbiased"])]
    if len(unbiased) > MOST_MARKERS:
        return _break_even_cells(table, biased, unbiased)
    step = 0.8 / len(unbiased)
    with paper_style():
        height = len(biased) * max(0.3, 0.1 * len(unbiased)) + 0.8
        figure = Figure(figsize=(6.8, height), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for ax, column, label in zip(
            panels, ("draws", "seconds"), ("number of draws averaged, M", "seconds of compute"), strict=True
        ):
            least, most = log_limits(table[column], table[f"{column}_low"], table[f"{column}_high"])
            log_axis(ax, "x", least, most)
            ax.set_xlabel(label)
            tidy(ax, grid="x")
            for band in range(0, len(biased), 2):
                ax.axhspan(band - 0.5, band + 0.5, color="0.96", zorder=0)
            known = table.dropna(subset=column)
            if known.empty:
                mark_empty(ax)
            for row in known.to_dict("records"):
                y = biased.index(row["biased"]) + (unbiased.index(row["unbiased"]) + 0.5) * step - 0.4
                _draw_interval(ax, row, column, y, (least, most), look.marker(row["unbiased"]))
        panels[0].set_ylim(len(biased) - 0.5, -0.5)
        panels[0].set_yticks(range(len(biased)), [printable(name) for name in biased], parse_math=False)
        panels[0].set_ylabel("biased estimator")
        add_legend(
            figure,
            {name: look.legend_marker(name) for name in unbiased},
            title="overtaken by the mean of M draws of",
        )
    return figure


def _break_even_cells(table: pd.DataFrame, biased: list[str], unbiased: list[str]) -> Figure:
    """The numbers of `break_even_chart` as two tables, biased by unbiased, where there are many of both."""
    with paper_style():
        widest = 0.06 * max(len(printable(name)) for name in [*biased, *unbiased])
        size = (widest + 0.6 + 0.46 * len(unbiased), widest + 0.9 + 2 * 0.21 * len(biased))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        for ax, column, title in zip(
            panels, ("draws", "seconds"), ("number of draws averaged, M", "seconds of compute"), strict=True
        ):
            by = {key: table.pivot(index="biased", columns="unbiased", values=f"{column}{key}") for key in ENDS}
            value, low, high = (by[key].loc[biased, unbiased].astype(float) for key in ENDS)
            words = value.map(_short if column == "draws" else partial(duration, digits=2))
            words = words.where(~np.isinf(value), "never").where(value != 0, "0")
            _draw_cells(ax, value, words.where(~(high > UNSURE * low) | (value == 0) | np.isinf(value), "~" + words))
            ax.set(xlabel="", ylabel="", title=title)
            ax.set_yticks(np.arange(len(biased)) + 0.5, [printable(name) for name in biased], parse_math=False)
            ax.tick_params(length=0)
        names = [printable(name) for name in unbiased]
        panels[1].set_xticks(np.arange(len(unbiased)) + 0.5, names, rotation=90, parse_math=False)
        figure.supxlabel("overtaken by the mean of M draws of")
        figure.supylabel("biased estimator")
    return figure


MOST_MARKERS = 3  # unbiased estimators, beside each biased one
UNSURE = 4.0  # the upper end of an interval over its lower one, from which a number is marked


def _draw_interval(
    ax: Axes, row: dict[Any, Any], column: str, y: float, limits: tuple[float, float], marker: dict[str, Any]
) -> None:
    """A marker with its interval as a bar; what lies beyond the limits is drawn on the edge."""
    ends = [row[f"{column}_low"], row[column], row[f"{column}_high"]]
    low, x, high = np.clip(np.nan_to_num(ends, nan=row[column]), *limits)
    ax.plot([low, high], [y, y], color=marker["color"], linewidth=0.9)
    ax.plot(x, y, clip_on=False, **marker)


def variance_reduction_chart(run: Evaluation) -> Figure | None:
    """Draw the share of the variance from REINFORCE to RAM that each unbiased estimator removes, by layer.

    Args:
        run: its tables are read.

    Returns:
        The figure; None where the run has nothing to show.
    """
    look = Look.of(run)
    table = among(run.variance_reduction.dropna(subset="share"), look.names, "estimator")
    table = table[table["layer"].isin(look.layers)]
    if table.empty:
        return None
    names = [name for name in look.names if name in set(table["estimator"])]
    table = table[table["layer"].isin(_told_apart(table))]
    names = [name for name in names if name in set(table["estimator"])]
    layers = [layer for layer in look.layers if layer in set(table["layer"])]
    if not layers:
        return None
    least = -0.5  # an estimator may be much worse than REINFORCE; it is drawn on the edge
    with paper_style():
        figure = Figure(figsize=(max(3.6, 1.5 * len(layers) + 1.2), 0.2 * len(names) + 1.0), layout="constrained")
        panels = figure.subplots(1, len(layers), sharey=True, sharex=True, squeeze=False).ravel()
        for layer, ax in zip(layers, panels, strict=True):
            ax.set_title(layer_title(layer))
            tidy(ax, grid="x")
            for yardstick in (0, 1):
                ax.axvline(yardstick, color="0.6", linewidth=0.8, zorder=0)
            for row in table[table["layer"] == layer].to_dict("records"):
                y = float(names.index(row["estimator"]))
                _draw_interval(ax, row, "share", y, (least, 1.5), look.marker(row["estimator"]))
            ax.set_xlim(least, 1.5)
            ax.set_xticks([0, 1], ["0", "1"])
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        panels[0].set_yticks(range(len(names)), [printable(name) for name in names], parse_math=False)
        figure.supxlabel("share of the variance removed, from reinforce (0) to ram (1)")
        figure.supylabel("unbiased estimator")
    return figure


def _told_apart(table: pd.DataFrame) -> set[str]:
    """The layers in which REINFORCE's variance is not RAM's; in a head that both sample once it is."""
    others = table[~table["estimator"].isin(["reinforce", "ram"])]
    known = np.isfinite(others["share_low"]) & np.isfinite(others["share_high"])
    return set(others["layer"][known]) if len(others) else set(table["layer"])


def data_plot(run: Evaluation) -> Figure | None:
    """Draw the points of a two-dimensional problem over the network's mean prediction.

    Args:
        run: its tables are read.

    Returns:
        The figure; None where the run has nothing to show.
    """
    if run.points is None or run.prediction is None:
        return None
    points = some_points(run.points)
    field = run.prediction.pivot(index="y", columns="x", values="prediction")
    with paper_style():
        shape = np.ptp(field.index) / max(np.ptp(field.columns), NOISE_FLOOR)
        figure = Figure(figsize=(4.6, min(max(3.5 * shape, 1.5), 6.0) + 0.5), layout="constrained")
        ax = figure.subplots()
        mesh = ax.pcolormesh(
            field.columns,
            field.index,
            field,
            cmap="RdBu",
            vmin=0,
            vmax=1,
            shading="nearest",
            rasterized=True,
            alpha=0.75,
        )
        entries = {}
        for target, marker, colour in ((1, "o", "#053061"), (-1, "^", "#67001F")):
            own = points[points["target"] == target]
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "markeredgecolor": "white"}
            ax.plot(own["x"], own["y"], linestyle="none", markeredgewidth=0.4, **style)
            entries[f"class {target:+d}".replace("-", "−")] = Line2D([], [], linestyle="none", **style)
        if field.to_numpy().min() < 0.5 < field.to_numpy().max():
            ax.contour(field.columns, field.index, field, levels=[0.5], colors="black", linewidths=0.9)
            entries["prediction ½"] = Line2D([], [], color="black", linewidth=0.9)
        ax.set(xlabel="first input", ylabel="second input", aspect="equal")
        figure.colorbar(mesh, ax=ax, label="mean prediction of class +1")
        add_legend(figure, entries)
    return figure
