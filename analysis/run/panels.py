"""What the figures of one run share: a panel for each layer, and which of many estimators and layers they show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gradeval.analysis.drawing import Drawing, GivenAxes, Look, Panels, chosen
from gradeval.analysis.legends import add_panel_legend
from gradeval.analysis.numbers import layer_title
from gradeval.analysis.plotting import FAMILIES, OTHERS, STYLES, family_of, tidy

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation

MOST_ESTIMATORS, MOST_KNOWN = 24, 12  # in the figures, and how many of them for their names' sake
MOST_LAYERS = 12
MOST_LINES = 8  # in a panel; of more, each family has a row of panels of its own
MOST_OF_FAMILY, MOST_COLUMNS = 6, 4


def run_look(run: Evaluation, drawing: Drawing) -> Look:
    """The look of the estimators in a run's figures.

    Args:
        run: its summary is read.
        drawing: what the caller wants.

    Returns:
        The look; of very many estimators of some, see `shown_estimators`, where the caller has not chosen any.
    """
    claims = run.summary.drop_duplicates("estimator").set_index("estimator")["unbiased_claim"]
    return drawing.look(map(str, claims.index), claims.to_dict(), shown_estimators(run))


def drawn_layers(run: Evaluation, drawing: Drawing, ax: GivenAxes = None) -> list[str]:
    """The layers that a figure shows.

    Args:
        run: its tables are read.
        drawing: what the caller wants.
        ax: the caller's axes.

    Returns:
        Those of the drawing; else on a single pair of axes "all", elsewhere those of `shown_layers`.
    """
    usual = ["all"] if isinstance(ax, Axes) else shown_layers(run)
    return chosen("layer", drawing.layers, [str(layer) for layer in run.summary["layer"].unique()], usual)


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


def layer_panels(
    layers: Sequence[str],
    drawing: Drawing,
    ax: GivenAxes,
    size: tuple[float, float] = (2.35, 2.1),
    share: bool = True,
) -> Panels:
    """One panel a layer; a legend has room in the spare ones, or above them.

    Args:
        layers: their names.
        drawing: what the caller wants.
        ax: the caller's axes.
        size: width and height of a panel, in inches.
        share: whether all have the same vertical axis.

    Returns:
        The panels by layer.
    """
    columns = min(3, len(layers))
    whole = max(columns * size[0], 3.6), math.ceil(len(layers) / columns) * size[1] + 0.35
    panels = Panels.open(layers, drawing, ax, whole, columns, sharex=True, sharey=share)
    for layer, panel in panels.items():
        panel.set_title(layer_title(layer))
        tidy(panel)
    if panels.new:
        for panel in list(panels.values())[-columns:]:
            panel.tick_params(labelbottom=True)  # the panel above a spare place is the last of its column
    return panels


def family_panels(
    look: Look, layers: Sequence[str], names: Iterable[str], drawing: Drawing
) -> tuple[Panels, list[tuple[list[str], Panels]]]:
    """A new figure with a row of panels for each family of estimators, and its legend at the end of the row.

    Args:
        look: of the estimators.
        layers: of many some are taken.
        names: of the estimators that are shown.
        drawing: what the caller wants.

    Returns:
        All panels; and of each row its estimators, and its panels by layer. Panels of a layer have the same axes.
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
    layers = few_layers(list(layers))
    size = (len(layers) * 1.5 + 2.6, 1.05 * len(rows) + 0.6)
    keys = [f"{title} {place}, {layer}" for place, (title, _) in enumerate(rows) for layer in [*layers, "legend"]]
    grid: dict[str, Any] = {"sharex": "col", "sharey": "col", "width_ratios": [*[1.0] * len(layers), 1.55]}
    every = Panels.open(keys, drawing, None, size, len(layers) + 1, **grid)
    cells, found = iter(every.values()), []
    for place, (title, own) in enumerate(rows):
        panels = Panels({layer: next(cells) for layer in layers})
        for layer, ax in panels.items():
            if place == 0:
                ax.set_title(layer_title(layer))
            tidy(ax)
        add_panel_legend(next(cells), {name: look.entry(name, line=True) for name in own}, title, drawing.labels)
        found.append((own, panels))
    return Panels({key: ax for key, ax in every.items() if ax.axison}), found
