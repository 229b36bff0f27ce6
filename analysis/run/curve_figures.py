"""Figures of a run's curves: accuracy of the mean of M draws against M."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradeval.analysis.plotting import log_axis, log_limits, mark_empty, paper_style
from gradeval.analysis.run.panels import Look, add_estimator_legend, among, layer_panels

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation


def cosine_curves(run: Evaluation) -> Figure | None:
    """Draw the cosine of the mean of M draws with the exact gradient, against M.

    Args:
        run: its tables are read.

    Returns:
        The figure; None where the run has nothing to show.
    """
    if run.curves.empty:
        return None
    look = Look.of(run)
    with paper_style():
        figure, axes = layer_panels(look)
        for layer, ax in axes.items():
            log_axis(ax, "x", *log_limits(run.curves["samples"], room=1.3))
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
        add_estimator_legend(figure, look, seen, lines=True)
    return figure


def rmse_curves(run: Evaluation) -> Figure | None:
    """Draw the relative root-mean-square error of the mean of M draws, against M.

    Args:
        run: its tables are read.

    Returns:
        The figure; None where the run has nothing to show.
    """
    if run.curves.empty:
        return None
    look = Look.of(run)
    draws = log_limits(run.curves["samples"], room=1.3)
    curves = among(run.best_curves, look.names, "estimator")
    curves = curves[curves["layer"].isin(look.layers)]
    low, high = log_limits(curves["relative_rmse"], curves["relative_rmse_low"])
    with paper_style():
        figure, axes = layer_panels(look)
        for ax in axes.values():
            log_axis(ax, "x", *draws)
            log_axis(ax, "y", low, high)
        seen = _draw_curves(run, look, axes, "relative_rmse", floor=low)
        figure.supxlabel("number of draws averaged, M")
        figure.supylabel("relative RMSE of the mean of M draws")
        add_estimator_legend(figure, look, seen, lines=True)
    return figure


def _draw_curves(run: Evaluation, look: Look, axes: dict[str, Axes], column: str, floor: float) -> list[str]:
    """Draw a column of the curves with its interval in every panel; return the estimators that were seen."""
    seen = set()
    for layer, ax in axes.items():
        rows = run.best_curves[(run.best_curves["layer"] == layer) & np.isfinite(run.best_curves[column])]
        if rows.empty:
            mark_empty(ax)
        for name in look.names:
            curve = rows[rows["estimator"] == name].sort_values("samples")
            if curve.empty:
                continue
            seen.add(name)
            low, value, high = (curve[c].clip(lower=floor) for c in (f"{column}_low", column, f"{column}_high"))
            ax.fill_between(curve["samples"], low, high, color=look.styles[name].colour, alpha=0.3, linewidth=0)
            ax.plot(curve["samples"], value, **look.line(name))
    return [name for name in look.names if name in seen]
