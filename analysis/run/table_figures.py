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
from matplotlib.lines import Line2D

from gradeval.analysis.drawing import USUAL, Drawing, GivenAxes, Look, Panels, chosen
from gradeval.analysis.legends import printable
from gradeval.analysis.numbers import duration, layer_title
from gradeval.analysis.plotting import (
    NOISE_FLOOR,
    ORANGE,
    letters,
    log_axis,
    log_limits,
    mark_empty,
    tidy,
)
from gradeval.analysis.run.panels import among, drawn_layers, layer_panels, run_look
from gradeval.analysis.run.points import some_points
from gradeval.analysis.statistics import ENDS
from gradeval.errors import GradevalError

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation


def bias_variance_plane(run: Evaluation, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw the relative bias against the relative standard deviation of one draw.

    Args:
        run: its tables are read.
        drawing: which estimators and layers, and how they look.
        ax: axes of your own: one for a single layer, or one for each. By default a new figure is made.

    Returns:
        The axes by layer.
    """
    look, layers = run_look(run, drawing), drawn_layers(run, drawing, ax)
    table = run.best.assign(
        **{f"deviation{end}": np.sqrt(run.best[f"relative_variance{end}"].clip(lower=0)) for end in ENDS},
    )
    table = among(table, look.names, "estimator").sort_values(
        "estimator", key=lambda names: names.map(look.names.index)
    )
    table = table[table["layer"].isin(layers)]
    table = table[np.isfinite(table["relative_bias"]) & np.isfinite(table["deviation"])]
    left, right = log_limits(table["deviation"], table["deviation_low"], table["deviation_high"])
    hidden = ~table["bias_seen"]  # only the upper end says something
    bottom, top = log_limits(
        table["relative_bias"][~hidden], table["relative_bias_low"][~hidden], table["relative_bias_high"], room=2.5
    )
    with drawing.settings(ax):
        panels = layer_panels(layers, drawing, ax)
        angle = np.arctan(np.geomspace(1e-6, 1e6, 400))
        for layer, panel in panels.items():
            log_axis(panel, "x", left, right)
            log_axis(panel, "y", bottom, top)
            for error in sorted({*panel.get_xticks(), *panel.get_yticks()}):
                panel.plot(error * np.cos(angle), error * np.sin(angle), color="0.75", linewidth=0.6, zorder=0.5)
                _name_error(panel, error)
            rows = table[table["layer"] == layer]
            if rows.empty:
                mark_empty(panel)
            for place, row in rows.iterrows():
                x = np.clip([row["deviation_low"], row["deviation"], row["deviation_high"]], left, right)
                y = np.clip([row["relative_bias_low"], row["relative_bias"], row["relative_bias_high"]], bottom, top)
                style = {**look.marker(row["estimator"]), "linestyle": "none", "elinewidth": 0.8, "clip_on": False}
                style["label"] = look.label(row["estimator"])
                across = [[max(0.0, x[1] - x[0])], [max(0.0, x[2] - x[1])]]
                if hidden[place] and y[2] > bottom:
                    panel.errorbar(x[1], y[2], xerr=across, yerr=y[2] * 0.45, uplims=True, **style)
                else:
                    along = [[max(0.0, y[1] - y[0])], [max(0.0, y[2] - y[1])]]
                    panel.errorbar(x[1], y[1], xerr=across, yerr=along, **style)
        panels.name_axes("relative standard deviation of one draw, √(tr Σ) / ‖g*‖", "relative bias, ‖E g − g*‖ / ‖g*‖")
        seen = [name for name in look.names if name in set(table["estimator"])]
        return panels.finish(drawing, {name: look.entry(name, line=False) for name in seen})


def _name_error(ax: Axes, error: float) -> None:
    """Write at a curve of equal RMSE what that is, inside its bend, or where the curve leaves the panel."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    x, y = (min(error / math.sqrt(2), end / 1.1) for end in (right, top))
    if y < error / math.sqrt(2):
        x = math.sqrt(error**2 - y**2)
    elif x < error / math.sqrt(2):
        y = math.sqrt(error**2 - x**2)
    if left * 1.5 < x < right and bottom * 1.5 < y < top:
        words: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": letters(6), "color": "0.5", "zorder": 0.6}
        ax.text(x / 1.04, y / 1.04, f"RMSE {error:g}", **words)


def heat_map(run: Evaluation, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Show relative bias and relative RMSE of one draw as numbers, estimator by layer.

    Args:
        run: its tables are read.
        drawing: which estimators (rows), layers (columns) and panels ("bias", "rmse"), and how they look.
        ax: axes of your own, one for each panel. By default a new figure is made.

    Returns:
        The axes of "bias" and "rmse".
    """
    look, layers = run_look(run, drawing), drawn_layers(run, drawing)

    def matrix(column: str) -> pd.DataFrame:
        table = run.best.pivot(index="estimator", columns="layer", values=column)
        return table.loc[look.names, layers].astype(float)

    bias, seen, high, rmse = map(matrix, ("relative_bias", "bias_seen", "relative_bias_high", "relative_rmse"))
    unseen = (seen == 0) & np.isfinite(high)  # as the verdicts say, which share an error rate
    upper = high.map(lambda value: "0" if value <= NOISE_FLOOR else f"<{_short(value)}")
    shown = {
        "bias": (bias.where(~unseen), bias.map(_short).where(~unseen, upper), "relative bias"),
        "rmse": (rmse, rmse.map(_short), "relative RMSE of one draw"),
    }
    keys = chosen("panel", drawing.panels, list(shown), list(shown))
    with drawing.settings(ax):
        size = 1.7 + len(keys) * max(1.2, 0.47 * len(layers)), 1.0 + 0.21 * len(look.names)
        panels = Panels.open(keys, drawing, ax, size, len(keys), sharey=True)
        for key, panel in panels.items():
            values, text, title = shown[key]
            _draw_cells(panel, values, text)
            panel.set(xlabel="layer", ylabel="", title=title)
            panel.set_xticks(np.arange(len(layers)) + 0.5, layers, parse_math=False)
            panel.tick_params(length=0)
            look.name_ticks(panel.yaxis, np.arange(len(look.names)) + 0.5, look.names)
    return panels


def _draw_cells(ax: Axes, values: pd.DataFrame, words: pd.DataFrame) -> None:
    """A table of words, coloured by its numbers on a logarithmic scale; light enough for black letters everywhere."""
    least, most = log_limits(values.where(np.isfinite(values)).stack())
    looks: dict[str, Any] = {"cmap": sns.light_palette(ORANGE, as_cmap=True), "norm": LogNorm(least, most, clip=True)}
    sns.heatmap(
        values, ax=ax, vmin=least, vmax=most, cbar=False, linewidths=0.8, xticklabels=False, yticklabels=False, **looks
    )
    for (row, column), word in np.ndenumerate(words.to_numpy()):
        ax.text(column + 0.5, row + 0.5, word, ha="center", va="center", fontsize=letters(6.5))


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


BREAK_EVEN = {"draws": "number of draws averaged, M", "seconds": "seconds of compute"}


def break_even_chart(run: Evaluation, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw from how many draws, and seconds, on an unbiased estimator is more accurate than a biased one.

    Args:
        run: its tables are read.
        drawing: which estimators, layer ("all", or the one that is chosen) and panels ("draws", "seconds"), and how
            they look.
        ax: axes of your own, one for each panel. By default a new figure is made.

    Returns:
        The axes of "draws" and "seconds"; none where the run has nothing to show.

    Raises:
        GradevalError: several layers are chosen.
    """
    look, table = run_look(run, drawing), run.breakeven
    layers = ["all"] if drawing.layers is None else drawn_layers(run, drawing)
    if len(layers) != 1:
        raise GradevalError(f"the break-even chart is of one layer; found {', '.join(layers)}: choose one.")
    table = among(table[(table["layer"] == layers[0]) & table["draws"].notna()], look.names, "biased", "unbiased")
    keys = chosen("panel", drawing.panels, list(BREAK_EVEN), list(BREAK_EVEN))
    if table.empty:
        return Panels()
    biased = [name for name in look.names if name in set(table["biased"])]
    unbiased = [name for name in look.names if name in set(table["unbiased"])]
    with drawing.settings(ax):
        if len(unbiased) > MOST_MARKERS:
            widest = 0.06 * max(len(printable(name)) for name in [*biased, *unbiased])
            size = (widest + 0.6 + 0.46 * len(unbiased), widest + 0.9 + len(keys) * 0.21 * len(biased))
            panels = Panels.open(keys, drawing, ax, size, 1, sharex=True)
            return _break_even_cells(table, look, (biased, unbiased), panels)
        size = (3.4 * len(keys), len(biased) * max(0.3, 0.1 * len(unbiased)) + 0.8)
        panels = Panels.open(keys, drawing, ax, size, len(keys), sharey=True)
        for column, panel in panels.items():
            least, most = log_limits(table[column], table[f"{column}_low"], table[f"{column}_high"])
            log_axis(panel, "x", least, most)
            panel.set_xlabel(BREAK_EVEN[column])
            tidy(panel, grid="x")
            for band in range(0, len(biased), 2):
                panel.axhspan(band - 0.5, band + 0.5, color="0.96", zorder=0)
            known = table.dropna(subset=column)
            if known.empty:
                mark_empty(panel)
            for row in known.to_dict("records"):
                y = biased.index(row["biased"]) + (unbiased.index(row["unbiased"]) + 0.5) * 0.8 / len(unbiased) - 0.4
                _draw_interval(panel, row, column, y, (least, most), look.marker(row["unbiased"]))
            panel.set_ylim(len(biased) - 0.5, -0.5)
            look.name_ticks(panel.yaxis, range(len(biased)), biased)
        next(iter(panels.values())).set_ylabel("biased estimator")
        entries = {name: look.entry(name, line=False) for name in unbiased}
        return panels.finish(drawing, entries, "overtaken by the mean of M draws of")


def _break_even_cells(table: pd.DataFrame, look: Look, names: tuple[list[str], list[str]], panels: Panels) -> Panels:
    """The numbers of `break_even_chart` as tables, biased by unbiased, where there are many of both."""
    biased, unbiased = names
    for column, panel in panels.items():
        by = {key: table.pivot(index="biased", columns="unbiased", values=f"{column}{key}") for key in ENDS}
        value, low, high = (by[key].loc[biased, unbiased].astype(float) for key in ENDS)
        words = value.map(_short if column == "draws" else partial(duration, digits=2))
        words = words.where(~np.isinf(value), "never").where(value != 0, "0")
        _draw_cells(panel, value, words.where(~(high > UNSURE * low) | (value == 0) | np.isinf(value), "~" + words))
        panel.set(xlabel="", ylabel="", title=BREAK_EVEN[column])
        look.name_ticks(panel.yaxis, np.arange(len(biased)) + 0.5, biased)
        look.name_ticks(panel.xaxis, np.arange(len(unbiased)) + 0.5, unbiased, rotation=90)
        panel.tick_params(length=0)
    panels.name_axes("overtaken by the mean of M draws of", "biased estimator")
    return panels


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


def variance_reduction_chart(run: Evaluation, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw the share of the variance from REINFORCE to RAM that each unbiased estimator removes, by layer.

    Layers in which REINFORCE and RAM are not told apart are left out.

    Args:
        run: its tables are read.
        drawing: which estimators and layers, and how they look.
        ax: axes of your own: one for a single layer, or one for each. By default a new figure is made.

    Returns:
        The axes by layer; none where the run has nothing to show.
    """
    look, wanted = run_look(run, drawing), drawn_layers(run, drawing, ax)
    table = among(run.variance_reduction.dropna(subset="share"), look.names, "estimator")
    table = table[table["layer"].isin(wanted)]
    if table.empty:
        return Panels()
    table = table[table["layer"].isin(_told_apart(table))]
    names = [name for name in look.names if name in set(table["estimator"])]
    layers = [layer for layer in wanted if layer in set(table["layer"])]
    if not layers:
        return Panels()
    least = -0.5  # an estimator may be much worse than REINFORCE; it is drawn on the edge
    with drawing.settings(ax):
        size = (max(3.6, 1.5 * len(layers) + 1.2), 0.2 * len(names) + 1.0)
        panels = Panels.open(layers, drawing, ax, size, len(layers), sharey=True, sharex=True)
        for layer, panel in panels.items():
            panel.set_title(layer_title(layer))
            tidy(panel, grid="x")
            for yardstick in (0, 1):
                panel.axvline(yardstick, color="0.6", linewidth=0.8, zorder=0)
            for row in table[table["layer"] == layer].to_dict("records"):
                y = float(names.index(row["estimator"]))
                _draw_interval(panel, row, "share", y, (least, 1.5), look.marker(row["estimator"]))
            panel.set_xlim(least, 1.5)
            panel.set_xticks([0, 1], ["0", "1"])
            panel.set_ylim(len(names) - 0.5, -0.5)
            look.name_ticks(panel.yaxis, range(len(names)), names)
        panels.name_axes("share of the variance removed, from reinforce (0) to ram (1)", "unbiased estimator")
    return panels


def _told_apart(table: pd.DataFrame) -> set[str]:
    """The layers in which REINFORCE's variance is not RAM's; in a head that both sample once it is."""
    others = table[~table["estimator"].isin(["reinforce", "ram"])]
    known = np.isfinite(others["share_low"]) & np.isfinite(others["share_high"])
    return set(others["layer"][known]) if len(others) else set(table["layer"])


def data_plot(run: Evaluation, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw the points of a two-dimensional problem over the network's mean prediction.

    Args:
        run: its tables are read.
        drawing: its size, style and legend count.
        ax: axes of your own. By default a new figure is made.

    Returns:
        The axes of "data"; none where the run has nothing to show.
    """
    if run.points is None or run.prediction is None:
        return Panels()
    points = some_points(run.points)
    field = run.prediction.pivot(index="y", columns="x", values="prediction")
    with drawing.settings(ax):
        shape = np.ptp(field.index) / max(np.ptp(field.columns), NOISE_FLOOR)
        panels = Panels.open(["data"], drawing, ax, (4.6, min(max(3.5 * shape, 1.5), 6.0) + 0.5), 1)
        panel = panels["data"]
        look: dict[str, Any] = {"cmap": "RdBu", "vmin": 0, "vmax": 1, "shading": "nearest", "alpha": 0.75}
        mesh = panel.pcolormesh(field.columns, field.index, field, rasterized=True, **look)
        entries = {}
        for target, marker, colour in ((1, "o", "#053061"), (-1, "^", "#67001F")):
            own = points[points["target"] == target]
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "markeredgecolor": "white"}
            label = f"class {target:+d}".replace("-", "−")
            panel.plot(own["x"], own["y"], linestyle="none", markeredgewidth=0.4, label=label, **style)
            entries[label] = Line2D([], [], linestyle="none", **style)
        if field.to_numpy().min() < 0.5 < field.to_numpy().max():
            panel.contour(field.columns, field.index, field, levels=[0.5], colors="black", linewidths=0.9)
            entries["prediction ½"] = Line2D([], [], color="black", linewidth=0.9)
        panel.set(xlabel="first input", ylabel="second input", aspect="equal")
        figure = panel.get_figure(root=True)
        assert figure is not None
        figure.colorbar(mesh, cax=panel.inset_axes((1.04, 0.0, 0.04, 1.0)), label="mean prediction of class +1")
        return panels.finish(drawing, entries)
