"""Figures of a run's curves: accuracy of the mean of M draws against M."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradeval.analysis.plotting import log_axis, log_limits, mark_empty, paper_style
from gradeval.analysis.run.panels import (
    MOST_LINES,
    LayerAxes,
    Look,
    add_estimator_legend,
    among,
    family_panels,
    layer_panels,
)
from gradeval.analysis.statistics import ENDS

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation


def cosine_curves(run: Evaluation) -> Figure | None:
    """Draw 1 less the cosine of the mean of M draws with the exact gradient, against M.

    Args:
        run: its tables are read.

    Returns:
        The figure; None where the run has nothing to show.
    """
    ends = dict(zip(ENDS, ("", "_high", "_low"), strict=True))
    apart = {f"apart{end}": 1 - run.best_curves[f"cosine{other}"] for end, other in ends.items()}
    apart |= {"apart_q15": 1 - run.best_curves["cosine_q85"], "apart_q85": 1 - run.best_curves["cosine_q15"]}
    return _curves(run, run.best_curves.assign(**apart), "apart", "1 − cosine with the exact gradient")


def rmse_curves(run: Evaluation) -> Figure | None:
    """Draw the relative root-mean-square error of the mean of M draws, against M.

    Args:
        run: its tables are read.

    Returns:
        The figure; None where the run has nothing to show.
    """
    return _curves(run, run.best_curves, "relative_rmse", "relative RMSE of the mean of M draws")


def _curves(run: Evaluation, curves: pd.DataFrame, column: str, label: str) -> Figure | None:
    """A column of the curves with its interval: a panel for each layer, or of many lines for each family, too."""
    look = Look.of(run)
    curves = among(curves[np.isfinite(curves[column])] if len(curves) else curves, look.names, "estimator")
    if run.curves.empty:
        return None
    seen = [name for name in look.names if name in set(curves["estimator"])]
    with paper_style():
        if len(seen) > MOST_LINES:
            figure, rows = family_panels(look, seen)
        else:
            figure, axes = layer_panels(look, share=False)
            rows = [(seen, axes)]
        lows: dict[str, float] = {}
        for layer, ax in rows[0][1].items():
            own = curves[curves["layer"] == layer]
            log_axis(ax, "x", *log_limits(run.curves["samples"], room=1.3))
            log_axis(
                ax, "y", *log_limits(own[column], own[f"{column}_low"].where(own[f"{column}_low"] > 0.1 * own[column]))
            )
            lows[layer] = ax.get_ylim()[0]
        for names, axes in rows:
            for layer, ax, lines in _by_layer(curves, axes):
                for name in look.names if len(rows) > 1 else []:
                    line = lines.get(name)
                    if line is not None and name not in names:
                        ax.plot(
                            line["samples"],
                            line[column].clip(lower=lows[layer]),
                            color="0.87",
                            linewidth=0.6,
                            zorder=0.5,
                        )
                _draw(ax, look, {n: lines[n] for n in names if n in lines}, column, lows[layer])
        figure.supxlabel("number of draws averaged, M")
        figure.supylabel(label)
        if len(rows) == 1:
            add_estimator_legend(figure, look, seen, lines=True)
    return figure


def _by_layer(curves: pd.DataFrame, axes: LayerAxes) -> Iterator[tuple[str, Axes, dict[str, pd.DataFrame]]]:
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
        ax.plot(curve["samples"], value, **look.line(name))
