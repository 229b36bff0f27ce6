"""What the figures of one run share: a panel for each layer, and the same look for an estimator in all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradeval.analysis.numbers import layer_title
from gradeval.analysis.plotting import (
    DASHED,
    FAMILIES,
    OTHERS,
    SOLID,
    STYLES,
    Style,
    add_legend,
    add_panel_legend,
    family_of,
    styles,
    tidy,
)

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation

MOST_ESTIMATORS, MOST_KNOWN = 24, 12  # in the figures, and how many of them for their names' sake
MOST_LAYERS = 12
MOST_LINES = 8  # in a panel; of more, each family has a row of panels of its own
MOST_OF_FAMILY, MOST_COLUMNS = 6, 4
LayerAxes = dict[str, Axes]


@dataclass(frozen=True)
class Look:
    """What every figure of a run needs to know about the estimators and layers that it shows, in the table's order.

    Attributes:
        names: of the estimators, see `shown_estimators`.
        layers: their names, see `shown_layers`.
        styles: by estimator.
        unbiased: by estimator, whether it claims to be unbiased.
    """

    names: list[str]
    layers: list[str]
    styles: dict[str, Style]
    unbiased: dict[str, bool]

    @classmethod
    def of(cls, run: Evaluation) -> Look:
        """The look of a run's figures.

        Args:
            run: its summary is read.

        Returns:
            The look.
        """
        names, layers = shown_estimators(run), shown_layers(run)
        claims = run.summary.drop_duplicates("estimator").set_index("estimator")["unbiased_claim"]
        return cls(names, layers, styles(names), {name: bool(claims[name]) for name in names})

    def marker(self, name: str) -> dict[str, Any]:
        """The marker of an estimator.

        Args:
            name: of the estimator.

        Returns:
            Arguments of matplotlib's ``plot``.
        """
        style = self.styles[name]
        return {
            "color": style.colour,
            "marker": style.marker,
            "markersize": 6.5 if style.marker == "*" else 4,  # a star fills less of its box
            "markerfacecolor": style.colour if self.unbiased[name] else "white",
            "markeredgecolor": style.colour,
        }

    def line(self, name: str) -> dict[str, Any]:
        """The line of an estimator, with its marker.

        Args:
            name: of the estimator.

        Returns:
            Arguments of matplotlib's ``plot``.
        """
        return {**self.marker(name), "linestyle": SOLID if self.unbiased[name] else DASHED}

    def legend_marker(self, name: str) -> Line2D:
        """What stands for an estimator in a legend of markers.

        Args:
            name: of the estimator.

        Returns:
            A marker without a line.
        """
        return Line2D([], [], **{**self.marker(name), "linestyle": "none"})


def shown_estimators(run: Evaluation) -> list[str]:
    """The estimators that figures and tables of pairs show: all, or where there are many those that matter most.

    Of many the built-in ones under their usual names are taken, as the paper's are, and then the most accurate.

    Args:
        run: its tables are read.

    Returns:
        At most `MOST_ESTIMATORS` names, in the order of the table.
    """
    every = [str(name) for name in run.summary["estimator"].unique()]
    if len(every) <= MOST_ESTIMATORS:
        return every
    ranked = run.best[run.best["layer"] == "all"].sort_values("relative_rmse", kind="stable", na_position="last")
    ranked = [str(name) for name in ranked["estimator"]]
    known = [name for name in ranked if name in STYLES][:MOST_KNOWN]
    shown = set(list(dict.fromkeys([*known, *ranked]))[:MOST_ESTIMATORS])
    return [name for name in every if name in shown]


def shown_layers(run: Evaluation) -> list[str]:
    """The layers that figures show: all, or of a deep network some, evenly among those that have a gradient.

    Args:
        run: its tables are read.

    Returns:
        At most `MOST_LAYERS` names, in the order of the table; "head" and "all" are among them.
    """
    every = [str(layer) for layer in run.summary["layer"].unique()]
    if len(every) <= MOST_LAYERS:
        return every
    ends = [layer for layer in every if layer in ("head", "all")]
    defined = set(run.best["layer"][np.isfinite(run.best["relative_rmse"])])
    inner = [layer for layer in every if layer not in ends and layer in defined]
    places = np.linspace(0, len(inner) - 1, min(MOST_LAYERS - len(ends), len(inner))).round().astype(int)
    return [*(inner[place] for place in places), *ends]


def few_layers(layers: list[str]) -> list[str]:
    """The layers that have a column where each family of estimators has a row.

    Args:
        layers: that figures show.

    Returns:
        All, or of more than `MOST_COLUMNS` the first, and the last ones with the head and all together.

    Examples:
        >>> few_layers(["1", "2", "3", "4", "head", "all"])
        ['1', '4', 'head', 'all']
    """
    return layers if len(layers) <= MOST_COLUMNS else [layers[0], *layers[1 - MOST_COLUMNS :]]


def among(table: pd.DataFrame, names: Iterable[str], *columns: str) -> pd.DataFrame:
    """The rows of a table that are of some estimators only.

    Args:
        table: any.
        names: of the estimators.
        columns: that hold names of estimators.

    Returns:
        The rows all of whose estimators are among ``names``.
    """
    if table.empty:  # it may have no columns
        return table
    known = set(names)
    return table[table[list(columns)].isin(known).all(axis=1)]


def layer_panels(look: Look, width: float = 2.35, height: float = 2.1, share: bool = True) -> tuple[Figure, LayerAxes]:
    """A figure with one panel a layer; a legend has room in the spare ones, or above them.

    Args:
        look: its layers are taken.
        width, height: of a panel, in inches.
        share: whether all have the same vertical axis.

    Returns:
        The figure, and its panels by layer.
    """
    columns = min(3, len(look.layers))
    rows = math.ceil(len(look.layers) / columns)
    size = (max(columns * width, 3.6), rows * height + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=share, squeeze=False).ravel()
    for spare in grid[len(look.layers) :]:
        spare.set_axis_off()
    axes = dict(zip(look.layers, grid, strict=False))
    for layer, ax in axes.items():
        ax.set_title(layer_title(layer))
        tidy(ax)
    for ax in grid[max(0, len(look.layers) - columns) : len(look.layers)]:
        ax.tick_params(labelbottom=True)  # the panel above a spare place is the last of its column
    return figure, axes


def family_panels(look: Look, names: Iterable[str]) -> tuple[Figure, list[tuple[list[str], LayerAxes]]]:
    """A figure with a row of panels for each family of estimators, and its legend at the end of the row.

    Args:
        look: its layers are taken; of many some.
        names: of the estimators that are shown.

    Returns:
        The figure; of each row its estimators, and its panels by layer. Panels of a layer have the same axes.
    """
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(family_of(name), []).append(name)
    order = [*FAMILIES, OTHERS]
    rows = [
        (title, members[title][first : first + MOST_OF_FAMILY])
        for title in sorted(members, key=order.index)
        for first in range(0, len(members[title]), MOST_OF_FAMILY)
    ]
    layers = few_layers(look.layers)
    size = (len(layers) * 1.5 + 2.6, 1.05 * len(rows) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    ratios = [*[1.0] * len(layers), 1.55]
    grid = figure.subplots(len(rows), len(layers) + 1, sharex="col", sharey="col", squeeze=False, width_ratios=ratios)
    found = []
    for place, (title, own) in enumerate(rows):
        axes: LayerAxes = dict(zip(layers, grid[place], strict=False))
        for layer, ax in axes.items():
            if place == 0:
                ax.set_title(layer_title(layer))
            tidy(ax)
        add_panel_legend(grid[place, -1], {name: Line2D([], [], **look.line(name)) for name in own}, title)
        found.append((own, axes))
    return figure, found


def add_estimator_legend(figure: Figure, look: Look, names: Iterable[str], lines: bool) -> None:
    """Put a legend of estimators above the panels.

    Args:
        figure: with room above the panels.
        look: of the run's estimators.
        names: of those that are shown.
        lines: whether they are drawn as lines, else as markers.
    """
    add_legend(
        figure, {name: Line2D([], [], **look.line(name)) if lines else look.legend_marker(name) for name in names}
    )
