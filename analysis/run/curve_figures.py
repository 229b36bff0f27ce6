"""Figures of a run's curves: accuracy of the mean of M draws against M."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gradeval.analysis.drawing import USUAL, Drawing, GivenAxes, Look, Panels
from gradeval.analysis.plotting import log_axis, log_limits, mark_empty
from gradeval.analysis.run.panels import MOST_LINES, among, drawn_layers, family_panels, layer_panels, run_look
from gradeval.analysis.statistics import ENDS

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation


def cosine_curves(run: Evaluation, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw 1 less the cosine of the mean of M draws with the exact gradient, against M.

    Args:
        run: its tables are read.
        drawing: which estimators and layers, and how they look.
        ax: axes of your own: one for a single layer, or one for each. By default a new figure is made.

    Returns:
        The axes by layer, or by family and layer where there are many estimators.
    """
    ends = dict(zip(ENDS, ("", "_high", "_low"), strict=True))
    apart = {f"apart{end}": 1 - run.best_curves[f"cosine{other}"] for end, other in ends.items()}
    apart |= {"apart_q15": 1 - run.best_curves["cosine_q85"], "apart_q85": 1 - run.best_curves["cosine_q15"]}
    curves = _Curves(run.best_curves.assign(**apart), "apart", "1 − cosine with the exact gradient")
    return _draw_curves(run, curves, drawing, ax)


def rmse_curves(run: Evaluation, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw the relative root-mean-square error of the mean of M draws, against M.

    Args:
        run: its tables are read.
        drawing: which estimators and layers, and how they look.
        ax: axes of your own: one for a single layer, or one for each. By default a new figure is made.

    Returns:
        The axes by layer, or by family and layer where there are many estimators.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units=2, stage=0, points=4)
        >>> run = gradeval.evaluate(problem, "st,psa,reinforce", draws=100)
        >>> list(rmse_curves(run, Drawing(("psa", "st"), layers=("1", "all"), labels={"psa": "PSA"})))
        ['1', 'all']
    """
    return _draw_curves(
        run, _Curves(run.best_curves, "relative_rmse", "relative RMSE of the mean of M draws"), drawing, ax
    )


@dataclass(frozen=True)
class _Curves:
    """What is drawn: a column of a table, with its interval, and what it is."""

    table: pd.DataFrame
    column: str
    label: str


def _draw_curves(run: Evaluation, curves: _Curves, drawing: Drawing, ax: GivenAxes) -> Panels:
    """A column of the curves with its interval: a panel for each layer, or of many lines for each family, too."""
    look, layers, column = run_look(run, drawing), drawn_layers(run, drawing, ax), curves.column
    if run.curves.empty:
        return Panels()
    table = among(curves.table[np.isfinite(curves.table[column])], look.names, "estimator")
    seen = [name for name in look.names if name in set(table["estimator"])]
    with drawing.settings(ax):
        if len(seen) > MOST_LINES and ax is None:
            panels, rows = family_panels(look, layers, seen, drawing)
        else:
            panels = layer_panels(layers, drawing, ax, share=False)
            rows = [(seen, panels)]
        lows: dict[str, float] = {}
        for layer, panel in rows[0][1].items():
            own = table[table["layer"] == layer]
            log_axis(panel, "x", *log_limits(run.curves["samples"], room=1.3))
            low = own[f"{column}_low"]
            log_axis(panel, "y", *log_limits(own[column], low.where(low > 0.1 * own[column])))
            lows[layer] = panel.get_ylim()[0]
        for names, axes in rows:
            for layer, panel, lines in _by_layer(table, axes):
                others = [n for n in look.names if n in lines and n not in names] if len(rows) > 1 else []
                for line in (lines[name] for name in others):
                    grey: dict[str, Any] = {"color": "0.87", "linewidth": 0.6, "zorder": 0.5}
                    panel.plot(line["samples"], line[column].clip(lower=lows[layer]), **grey)
                _draw(panel, look, {n: lines[n] for n in names if n in lines}, column, lows[layer])
        panels.name_axes("number of draws averaged, M", curves.label)
        return panels.finish(drawing, {n: look.entry(n, line=True) for n in seen} if len(rows) == 1 else {})


def _by_layer(curves: pd.DataFrame, axes: Panels) -> Iterator[tuple[str, Axes, dict[str, pd.DataFrame]]]:
    """Of each layer the panel, and every estimator's curve."""
    for layer, ax in axes.items():
        rows = curves[curves["layer"] == layer].sort_values("samples", kind="stable")
        yield layer, ax, {str(name): curve for name, curve in rows.groupby("estimator", sort=False)}


def _draw(ax: Axes, look: Look, lines: Mapping[str, pd.DataFrame], column: str, floor: float) -> None:
    """Curves with their intervals, and where there are quantiles these as a paler band."""
    if not lines:
        mark_empty(ax)
    for name, curve in lines.items():
        colour = look.styles[name].colour
        if f"{column}_q15" in curve:
            ends = (curve[f"{column}_q{q}"].clip(lower=floor) for q in (15, 85))
            ax.fill_between(curve["samples"], *ends, color=colour, alpha=0.7 / max(7, len(look.names)), linewidth=0)
        low, value, high = (curve[f"{column}{end}"].clip(lower=floor) for end in (ENDS[1], ENDS[0], ENDS[2]))
        ax.fill_between(curve["samples"], low, high, color=colour, alpha=0.3, linewidth=0)
        ax.plot(curve["samples"], value, label=look.label(name), **look.line(name))
