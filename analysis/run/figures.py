"""The figures of a run, from its saved tables: fit for a paper, the same bytes from the same tables.

An estimator keeps one colour and marker in every figure. A solid line or a filled marker belongs to an estimator that
claims to be unbiased, a dashed line or a hollow marker to one that does not.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

if TYPE_CHECKING:
    from gradeval.analysis.run.tables import Evaluation

FORMATS = ("svg", "png", "pdf")
FONT = "DejaVu Sans"  # comes with matplotlib, so a figure has the same letters on every machine
ROUNDING = 1e-9  # relative errors below this are floating-point noise: on a logarithmic axis they count as zero

# Okabe and Ito's palette for the colour-blind, its yellow (too pale on white) replaced by grey.
VERMILION, ORANGE, GREY, BLUE = "#D55E00", "#E69F00", "#7F7F7F", "#0072B2"
SKY, PURPLE, GREEN, BLACK = "#56B4E9", "#CC79A7", "#009E73", "#000000"
WINE = "#882255"  # of Paul Tol's muted palette
COLOURS = (VERMILION, ORANGE, GREY, BLUE, SKY, PURPLE, GREEN, BLACK, WINE)
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "p", "h", "*", "d")


@dataclass(frozen=True)
class Style:
    """How one estimator looks in every figure."""

    colour: str
    marker: str


KNOWN = {  # one colour a family
    "reinforce": Style(VERMILION, "o"),
    "rloo": Style(VERMILION, "s"),
    "nvil": Style(VERMILION, "D"),
    "arm": Style(ORANGE, "s"),
    "disarm": Style(ORANGE, "D"),
    "arms": Style(ORANGE, "^"),
    "muprop": Style(GREY, "v"),
    "rebar": Style(GREY, "^"),
    "relax": Style(GREY, "<"),
    "double-cv": Style(GREY, ">"),
    "concrete:temperature=0.1": Style(SKY, "^"),
    "concrete:temperature=1.0": Style(BLUE, "v"),
    "concrete": Style(BLUE, "d"),
    "st-gumbel": Style(BLUE, "p"),
    "gumbel-rao": Style(BLUE, "h"),
    "tanh": Style(PURPLE, "P"),
    "adf": Style(PURPLE, "X"),
    "local-reparam": Style(PURPLE, "p"),
    "mve": Style(PURPLE, "h"),
    "st": Style(GREEN, "D"),
    "hard-st": Style(GREEN, "<"),
    "identity-st": Style(GREEN, ">"),
    "reinmax": Style(GREEN, "h"),
    "psa": Style(BLACK, "*"),
    "ram": Style(WINE, "X"),
    "leg": Style(WINE, "P"),
}


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name, all different (up to the 117 there are); it does not depend on the order of the names.

    A known name has a fixed style, a variant of one (`rloo:samples=4`) its colour. Any other name is hashed to a place
    among the styles that are left, and moves on from there only where two names meet.
    """
    every = [Style(colour, marker) for marker in MARKERS for colour in COLOURS]
    taken = set(KNOWN.values())
    chosen = {}
    for name in sorted(set(names)):
        if name in KNOWN:
            chosen[name] = KNOWN[name]
            continue
        start = zlib.crc32(name.encode("utf-8", "replace")) % len(every)
        candidates = every[start:] + every[:start]
        family = KNOWN.get(name.split(":")[0])
        if family:
            candidates.sort(key=lambda style: style.colour != family.colour)
        chosen[name] = next((style for style in candidates if style not in taken), candidates[0])
        taken.add(chosen[name])
    return chosen


@contextmanager
def paper_style() -> Iterator[None]:
    """The look of all figures, whatever the reader's matplotlibrc says; matplotlib's settings are restored after."""
    settings = {
        **sns.axes_style("ticks"),
        "font.family": [FONT],
        "font.sans-serif": [FONT],
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "figure.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7.5,
        "axes.linewidth": 0.7,
        "lines.linewidth": 1.2,
        "lines.markersize": 4,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "svg.hashsalt": "gradeval",  # otherwise the element names in an SVG change from one run to the next
        "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3 fonts
    }
    with matplotlib.style.context(["default", settings]):
        yield


def layer_title(layer: str) -> str:
    """`1` -> layer 1, `all` -> all layers; the head stays."""
    return {"head": "head", "all": "all layers"}.get(layer, f"layer {layer}")


@cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties(family=FONT))).get_charmap())


def printable(name: str, longest: int = 34) -> str:
    """A name that can be drawn on one line: characters that the font lacks become ?, a long one loses its middle."""
    shown = "".join(c if c.isprintable() and ord(c) in _characters() else "?" for c in name)
    half = (longest - 1) // 2
    return shown if len(shown) <= longest else f"{shown[:half]}…{shown[-half:]}"


@dataclass(frozen=True)
class _Look:
    """What every figure of a run needs to know about its estimators and layers, in the order of the table."""

    names: list[str]
    layers: list[str]
    styles: dict[str, Style]
    unbiased: dict[str, bool]

    @classmethod
    def of(cls, run: Evaluation) -> _Look:
        names = [str(name) for name in run.summary["estimator"].unique()]
        claims = run.summary.drop_duplicates("estimator").set_index("estimator")["unbiased_claim"]
        layers = [str(layer) for layer in run.summary["layer"].unique()]
        return cls(names, layers, styles(names), {name: bool(claims[name]) for name in names})

    def marker(self, name: str) -> dict[str, Any]:
        style = self.styles[name]
        return {
            "color": style.colour,
            "marker": style.marker,
            "markersize": 6.5 if style.marker == "*" else 4,  # a star fills less of its box
            "markerfacecolor": style.colour if self.unbiased[name] else "white",
            "markeredgecolor": style.colour,
        }

    def line(self, name: str) -> dict[str, Any]:
        return {**self.marker(name), "linestyle": "-" if self.unbiased[name] else (0, (4, 1.5))}


def _panels(look: _Look, width: float = 2.35, height: float = 2.1) -> tuple[Figure, dict[str, Axes]]:
    """One panel a layer, on shared axes; the legend comes above them."""
    columns = min(3, len(look.layers))
    rows = math.ceil(len(look.layers) / columns)
    size = (max(columns * width, 3.6), rows * height + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in grid[len(look.layers) :]:
        spare.remove()
    axes = dict(zip(look.layers, grid, strict=False))
    for layer, ax in axes.items():
        ax.set_title(layer_title(layer))
        ax.grid(color="0.92", linewidth=0.6)
        sns.despine(ax=ax)
    for ax in grid[max(0, len(look.layers) - columns) : len(look.layers)]:
        ax.tick_params(labelbottom=True)  # the panel above a spare place is the last of its column
    return figure, axes


def _legend(figure: Figure, entries: dict[str, Line2D], title: str | None = None) -> None:
    """A legend above the panels, in as many columns as fit; the figure grows by the legend's height."""
    if not entries:
        return
    labels = [printable(name) for name in entries]
    width, height = figure.get_size_inches()
    columns = max(1, min(len(labels), int(width / (0.45 + 0.067 * max(map(len, labels))))))
    rows = math.ceil(len(labels) / columns)
    figure.set_size_inches(width, height + 0.165 * (rows + bool(title)) + 0.1)
    # The texts are set afterwards: matplotlib would leave out a label that begins with _ and read $ as mathematics.
    legend = figure.legend(
        list(entries.values()),
        [str(place) for place in range(len(labels))],
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.4,
        title=title,
        title_fontsize=7.5,
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set(text=label, parse_math=False)


def _estimator_legend(figure: Figure, look: _Look, names: Iterable[str], lines: bool) -> None:
    draw = look.line if lines else lambda name: {**look.marker(name), "linestyle": "none"}
    _legend(figure, {name: Line2D([], [], **draw(name)) for name in names})


def _nothing(ax: Axes, why: str = "no finite value") -> None:
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="0.45", fontsize=7)


def _log_limits(*columns: pd.Series, room: float = 1.6) -> tuple[float, float]:
    """Limits of a logarithmic axis that holds every finite value above rounding, and at least one decade."""
    values = np.concatenate([np.asarray(column, dtype=float) for column in columns])
    values = values[np.isfinite(values) & (values > ROUNDING)]
    if not values.size:
        return 0.1, 10.0
    low, high = float(values.min()) / room, float(values.max()) * room
    widen = max(1.0, math.sqrt(10 * low / high))
    return low / widen, high * widen


def log_axis(ax: Axes, name: str, low: float, high: float) -> None:
    """A logarithmic axis with ticks at powers of ten, or at 1, 2, 5 where it is short; without the slow minor ticks."""
    short = high < 50 * low
    ax.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis: Axis = getattr(ax, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,), numticks=7))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def _draw_curves(run: Evaluation, look: _Look, axes: dict[str, Axes], column: str, floor: float) -> list[str]:
    """Draw a column of the curves with its interval in every panel; return the estimators that were seen."""
    seen = set()
    for layer, ax in axes.items():
        rows = run.curves[(run.curves["layer"] == layer) & np.isfinite(run.curves[column])]
        if rows.empty:
            _nothing(ax)
        for name in look.names:
            curve = rows[rows["estimator"] == name].sort_values("samples")
            if curve.empty:
                continue
            seen.add(name)
            low, value, high = (curve[c].clip(lower=floor) for c in (f"{column}_low", column, f"{column}_high"))
            ax.fill_between(curve["samples"], low, high, color=look.styles[name].colour, alpha=0.3, linewidth=0)
            ax.plot(curve["samples"], value, **look.line(name))
    return [name for name in look.names if name in seen]


def cosine_curves(run: Evaluation) -> Figure | None:
    """Cosine of the mean of M draws with the exact gradient, against M."""
    if run.curves.empty:
        return None
    look = _Look.of(run)
    with paper_style():
        figure, axes = _panels(look)
        for layer, ax in axes.items():
            log_axis(ax, "x", *_log_limits(run.curves["samples"], room=1.3))
            for name in look.names:
                rows = run.curves[(run.curves["layer"] == layer) & (run.curves["estimator"] == name)]
                rows = rows.sort_values("samples")
                ax.fill_between(
                    rows["samples"],
                    rows["cosine_q15"],
                    rows["cosine_q85"],
                    color=look.styles[name].colour,
                    alpha=min(0.1, 0.7 / len(look.names)),
                    linewidth=0,
                )
        seen = _draw_curves(run, look, axes, "cosine", floor=-1.0)
        figure.supxlabel("number of draws averaged, M")
        figure.supylabel("cosine with the exact gradient")
        _estimator_legend(figure, look, seen, lines=True)
    return figure


def rmse_curves(run: Evaluation) -> Figure | None:
    """Relative root-mean-square error of the mean of M draws, against M."""
    if run.curves.empty:
        return None
    look = _Look.of(run)
    draws = _log_limits(run.curves["samples"], room=1.3)
    low, high = _log_limits(run.curves["relative_rmse"], run.curves["relative_rmse_low"])
    with paper_style():
        figure, axes = _panels(look)
        for ax in axes.values():
            log_axis(ax, "x", *draws)
            log_axis(ax, "y", low, high)
        seen = _draw_curves(run, look, axes, "relative_rmse", floor=low)
        for (_name, layer), curve in run.exact_curves.groupby(["estimator", "layer"], sort=False):
            value = curve["relative_rmse"].clip(lower=low)
            axes[layer].plot(curve["samples"], value, color="black", linewidth=0.7, linestyle=":", zorder=5)
        figure.supxlabel("number of draws averaged, M")
        figure.supylabel("relative RMSE of the mean of M draws")
        _estimator_legend(figure, look, seen, lines=True)
    return figure


def bias_variance(run: Evaluation) -> Figure:
    """Relative bias against the relative standard deviation of one draw."""
    look = _Look.of(run)
    table = run.best.assign(
        **{
            f"deviation{end}": np.sqrt(run.best[f"relative_variance{end}"].clip(lower=0))
            for end in ("", "_low", "_high")
        },
    )
    table = table[np.isfinite(table["relative_bias"]) & np.isfinite(table["deviation"])]
    left, right = _log_limits(table["deviation"], table["deviation_low"], table["deviation_high"])
    hidden = ~(table["relative_bias_low"] > ROUNDING)  # no bias seen: only the upper end says something
    bottom, top = _log_limits(
        table["relative_bias"][~hidden], table["relative_bias_low"][~hidden], table["relative_bias_high"], room=2.5
    )
    with paper_style():
        figure, axes = _panels(look)
        angle = np.arctan(np.geomspace(1e-6, 1e6, 400))
        for layer, ax in axes.items():
            log_axis(ax, "x", left, right)
            log_axis(ax, "y", bottom, top)
            for error in sorted({*ax.get_xticks(), *ax.get_yticks()}):
                ax.plot(error * np.cos(angle), error * np.sin(angle), color="0.75", linewidth=0.6, zorder=0.5)
            rows = table[table["layer"] == layer]
            if rows.empty:
                _nothing(ax)
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
        _estimator_legend(figure, look, [n for n in look.names if n in set(table["estimator"])], lines=False)
    return figure


def heat_map(run: Evaluation) -> Figure:
    """Relative bias and relative RMSE of one draw as numbers, estimator by layer."""
    look = _Look.of(run)

    def matrix(column: str) -> pd.DataFrame:
        table = run.best.pivot(index="estimator", columns="layer", values=column)
        return table.loc[look.names, look.layers].astype(float)

    bias, low, high, rmse = map(matrix, ("relative_bias", "relative_bias_low", "relative_bias_high", "relative_rmse"))
    unseen = ~(low > ROUNDING) & np.isfinite(high)
    upper = high.map(lambda value: "0" if value <= ROUNDING else f"<{_short(value)}")
    words = bias.map(_short).where(~unseen, upper)
    with paper_style():
        width = 1.7 + 2 * max(1.2, 0.47 * len(look.layers))
        figure = Figure(figsize=(width, 1.0 + 0.21 * len(look.names)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        warm = sns.light_palette(ORANGE, as_cmap=True)
        for ax, values, text, title in (
            (panels[0], bias.where(~unseen), words, "relative bias"),
            (panels[1], rmse, rmse.map(_short), "relative RMSE of one draw"),
        ):
            least, most = _log_limits(values.stack())
            norm = LogNorm(least, most, clip=True)  # light enough for black numbers everywhere
            sns.heatmap(
                values,
                ax=ax,
                vmin=least,
                vmax=most,
                norm=norm,
                cmap=warm,
                cbar=False,
                linewidths=0.8,
                xticklabels=False,
                yticklabels=False,
            )
            for (row, column), word in np.ndenumerate(text.to_numpy()):
                ax.text(column + 0.5, row + 0.5, word, ha="center", va="center", fontsize=6.5)
            ax.set(xlabel="layer", ylabel="", title=title)
            ax.set_xticks(np.arange(len(look.layers)) + 0.5, look.layers, parse_math=False)
            ax.tick_params(length=0)
        panels[0].set_yticks(np.arange(len(look.names)) + 0.5, [printable(n) for n in look.names], parse_math=False)
    return figure


def _short(value: float) -> str:
    """Two significant digits in a cell: 0.034, 1.2, 87, 2e-5; a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    if abs(value) < ROUNDING:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e4:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"


def break_even(run: Evaluation) -> Figure | None:
    """Number of draws, and seconds, from which an unbiased estimator is more accurate than a biased one."""
    table = run.breakeven
    table = table[(table["layer"] == "all") & table["draws"].notna()]
    if table.empty:
        return None
    look = _Look.of(run)
    biased = [name for name in look.names if name in set(table["biased"])]
    unbiased = [name for name in look.names if name in set(table["unbiased"])]
    step = 0.8 / len(unbiased)
    with paper_style():
        height = len(biased) * max(0.3, 0.1 * len(unbiased)) + 0.8
        figure = Figure(figsize=(6.8, height), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for ax, column, label in zip(
            panels, ("draws", "seconds"), ("number of draws averaged, M", "seconds of compute"), strict=True
        ):
            least, most = _log_limits(table[column], table[f"{column}_low"], table[f"{column}_high"])
            log_axis(ax, "x", least, most)
            ax.set_xlabel(label)
            ax.grid(axis="x", color="0.92", linewidth=0.6)
            for band in range(0, len(biased), 2):
                ax.axhspan(band - 0.5, band + 0.5, color="0.96", zorder=0)
            known = table.dropna(subset=column)
            if known.empty:
                _nothing(ax)
            for row in known.to_dict("records"):
                y = biased.index(row["biased"]) + (unbiased.index(row["unbiased"]) + 0.5) * step - 0.4
                low, x, high = np.clip(
                    np.nan_to_num([row[f"{column}_low"], row[column], row[f"{column}_high"]], nan=row[column]),
                    least,
                    most,
                )
                style = look.marker(row["unbiased"])
                ax.plot([low, high], [y, y], color=style["color"], linewidth=0.9)
                ax.plot(x, y, clip_on=False, **style)
            sns.despine(ax=ax)
        panels[0].set_ylim(len(biased) - 0.5, -0.5)
        panels[0].set_yticks(range(len(biased)), [printable(name) for name in biased], parse_math=False)
        panels[0].set_ylabel("biased estimator")
        _legend(
            figure,
            {name: Line2D([], [], **{**look.marker(name), "linestyle": "none"}) for name in unbiased},
            title="overtaken by the mean of M draws of",
        )
    return figure


def variance_reduction(run: Evaluation) -> Figure | None:
    """Share of the variance from REINFORCE to RAM that each unbiased estimator removes, by layer."""
    table = run.variance_reduction.dropna(subset="share")
    if table.empty:
        return None
    look = _Look.of(run)
    names = [name for name in look.names if name in set(table["estimator"])]
    layers = [layer for layer in look.layers if layer in set(table["layer"])]
    least = -0.5  # an estimator may be much worse than REINFORCE; it is drawn on the edge
    with paper_style():
        figure = Figure(figsize=(max(3.6, 1.5 * len(layers) + 1.2), 0.2 * len(names) + 1.0), layout="constrained")
        panels = figure.subplots(1, len(layers), sharey=True, sharex=True, squeeze=False).ravel()
        for layer, ax in zip(layers, panels, strict=True):
            ax.set_title(layer_title(layer))
            ax.grid(axis="x", color="0.92", linewidth=0.6)
            for yardstick in (0, 1):
                ax.axvline(yardstick, color="0.6", linewidth=0.8, zorder=0)
            for row in table[table["layer"] == layer].to_dict("records"):
                y = names.index(row["estimator"])
                low, x, high = np.clip(
                    np.nan_to_num([row["share_low"], row["share"], row["share_high"]], nan=row["share"]), least, 1.5
                )
                style = look.marker(row["estimator"])
                ax.plot([low, high], [y, y], color=style["color"], linewidth=0.9)
                ax.plot(x, y, clip_on=False, **style)
            ax.set_xlim(least, 1.5)
            ax.set_xticks([0, 1], ["0", "1"])
            sns.despine(ax=ax)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        panels[0].set_yticks(range(len(names)), [printable(name) for name in names], parse_math=False)
        figure.supxlabel("share of the variance removed, from reinforce (0) to ram (1)")
        figure.supylabel("unbiased estimator")
    return figure


def data(run: Evaluation) -> Figure | None:
    """The points of a two-dimensional problem over the network's mean prediction."""
    if run.points is None or run.prediction is None:
        return None
    field = run.prediction.pivot(index="y", columns="x", values="prediction")
    with paper_style():
        shape = np.ptp(field.index) / max(np.ptp(field.columns), ROUNDING)
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
            own = run.points[run.points["target"] == target]
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "markeredgecolor": "white"}
            ax.plot(own["x"], own["y"], linestyle="none", markeredgewidth=0.4, **style)
            entries[f"class {target:+d}".replace("-", "−")] = Line2D([], [], linestyle="none", **style)
        if field.to_numpy().min() < 0.5 < field.to_numpy().max():
            ax.contour(field.columns, field.index, field, levels=[0.5], colors="black", linewidths=0.9)
            entries["prediction ½"] = Line2D([], [], color="black", linewidth=0.9)
        ax.set(xlabel="first input", ylabel="second input", aspect="equal")
        figure.colorbar(mesh, ax=ax, label="mean prediction of class +1")
        _legend(figure, entries)
    return figure


FIGURES: dict[str, tuple[Callable[[Evaluation], Figure | None], str]] = {
    "bias-variance": (
        bias_variance,
        "Bias–variance plane of one draw: up is more bias, right is more noise. The grey curves join points of equal "
        "relative RMSE, √(bias² + variance), to be read where they meet an axis. Bars are 95% intervals. A marker with "
        "an arrow is the upper end of the interval of a bias that was not seen. On the left edge: no variance; on the "
        "bottom edge: exactly no bias. Filled: claims to be unbiased; hollow: does not.",
    ),
    "rmse": (
        rmse_curves,
        "Relative root-mean-square error, √(E‖ḡ − g*‖²) / ‖g*‖, of the mean ḡ of M draws. Variance falls as 1/M: a "
        "curve that goes on falling shows variance, one that levels off has reached its bias. Bands are 95% intervals, "
        "dotted lines exact (no sampling), where known. "
        "Solid: claims to be unbiased; dashed: does not.",
    ),
    "cosine": (
        cosine_curves,
        "Cosine between the mean of M draws and the exact gradient, averaged over blocks of M draws: darker bands are "
        "95% intervals of that average, lighter ones hold the middle 70% of the blocks (15% to 85% quantile). "
        "Solid: claims to be unbiased; dashed: does not.",
    ),
    "heat-map": (
        heat_map,
        "Relative bias and relative RMSE of one draw, by estimator and layer; a stronger colour is worse, on a "
        "logarithmic scale. White with <: no bias was seen, the number is the upper end of its 95% interval; 0: "
        "exactly none. A dash: not defined.",
    ),
    "break-even": (
        break_even,
        "Break-even, for the gradient of all layers: from how many draws, and from how much compute, the mean of an "
        "unbiased estimator has a smaller squared error than that of a biased one. On the left edge: from the start; "
        "on the right edge: beyond the axis. Bars are 95% intervals.",
    ),
    "variance-reduction": (
        variance_reduction,
        "Quality of control variates: the share of the variance between REINFORCE (0) and RAM (1), which integrates "
        "out one unit at a time, that each unbiased estimator removes. Bars are 95% intervals. On the left edge: "
        "worse than REINFORCE by half of that or more.",
    ),
    "data": (
        data,
        "The data, over the network’s prediction: the probability of class +1, averaged exactly over all states of the "
        "network. A black line, if any, is where it is one half.",
    ),
}


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, then replace it: a reader, or a crash, never meets half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def save_all(run: Evaluation, folder: Path) -> list[Path]:
    """Write every figure that the run has tables for, as SVG, PNG and PDF; remove those it has none for."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for name, (function, _) in FIGURES.items() for path in save_figure(function(run), folder, name)]


def save_figure(figure: Figure | None, folder: Path, name: str) -> list[Path]:
    """Write a figure as SVG, PNG and PDF; remove those files where there is none."""
    if figure is not None:
        with paper_style():  # lay out once, not once a format: it takes most of the time
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
    written = []
    for extension in FORMATS:
        path = folder / f"{name}.{extension}"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        write_atomically(path, render(figure, extension))
        written.append(path)
    return written


def render(figure: Figure, extension: str) -> bytes:
    """The figure as a file's bytes, without the time of day, which would make every run's files differ."""
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[extension]
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format=extension, dpi=200, metadata=dateless)
    return buffer.getvalue()
