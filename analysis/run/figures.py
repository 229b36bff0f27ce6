"""The figures of a run, from its saved tables: fit for a paper, the same bytes from the same tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gradeval.analysis.drawing import Panels
from gradeval.analysis.plotting import save_figure
from gradeval.analysis.run.curve_figures import cosine_curves, rmse_curves
from gradeval.analysis.run.panels import MOST_KNOWN, MOST_LINES, few_layers, shown_estimators, shown_layers
from gradeval.analysis.run.points import some_points
from gradeval.analysis.run.table_figures import (
    bias_variance_plane,
    break_even_chart,
    data_plot,
    heat_map,
    variance_reduction_chart,
)

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation


RUN_FIGURES: dict[str, tuple[Callable[[Evaluation], Panels], str]] = {
    "bias-variance": (
        bias_variance_plane,
        "Bias–variance plane of one draw: up is more bias, right is more noise. The grey curves join points of equal "
        "relative RMSE, √(bias² + variance). Bars are 95% intervals. A marker with "
        "an arrow is the upper end of the interval of a bias that was not seen. On the left edge: no variance; on the "
        "bottom edge: exactly no bias. Filled: claims to be unbiased; hollow: does not.",
    ),
    "rmse": (
        rmse_curves,
        "Relative root-mean-square error, √(E‖ḡ − g*‖²) / ‖g*‖, of the mean ḡ of M draws. Variance falls as 1/M: a "
        "curve that keeps falling shows variance, one that levels off has reached its bias. Bands are 95% intervals; a "
        "curve without a band is exact. "
        "Solid: claims to be unbiased; dashed: does not. Each panel has its own range.",
    ),
    "cosine": (
        cosine_curves,
        "1 less the mean cosine between the mean of M draws and the exact gradient: 0 is perfect, 1 at right angles. "
        "Darker bands are 95% intervals, lighter ones hold the middle 70% of the blocks of M draws (15% to 85% "
        "quantile). "
        "Solid: claims to be unbiased; dashed: does not. Each panel has its own range.",
    ),
    "heat-map": (
        heat_map,
        "Relative bias and relative RMSE of one draw, by estimator and layer; a stronger colour is worse, on a "
        "logarithmic scale. No colour, and <: the test behind the verdicts sees no bias, and the number is the upper "
        "end of its 95% interval; 0: exactly none. A dash: not defined.",
    ),
    "break-even": (
        break_even_chart,
        "Break-even, for the gradient of all layers: from how many draws, and from how much compute, the mean of an "
        "unbiased estimator has a smaller squared error than that of a biased one. On the left edge: from the start; "
        "on the right edge: beyond the axis. Bars are 95% intervals. In a table, 0 is from the start; ~ stands before "
        "a number whose interval has ends more than a factor of 4 apart.",
    ),
    "variance-reduction": (
        variance_reduction_chart,
        "Quality of control variates: the share of the variance between REINFORCE (0) and RAM (1), which integrates "
        "out one unit at a time, that each unbiased estimator removes. Bars are 95% intervals. On the left edge: "
        "worse than REINFORCE by half of that or more. Layers in which these two are not told apart are left out.",
    ),
    "data": (
        data_plot,
        "The data, over the network’s prediction: the probability of class +1, averaged exactly over all states of the "
        "network. A line, if any, is where it is one half.",
    ),
}


def caption_of(run: Evaluation, name: str) -> str:
    """The caption of a figure, with what was left out of it.

    Args:
        run: its tables are read.
        name: of the figure.

    Returns:
        A few sentences.
    """
    caption = RUN_FIGURES[name][1]
    if name == "data":
        total = run.manifest["problem"]["points"]
        drawn = 0 if run.points is None else len(some_points(run.points))
        return caption if total <= drawn else f"{caption} {drawn:,} of the {total:,} points are drawn, of both classes."
    words = selection_words(run)
    layers, shown = run.summary["layer"].nunique(), shown_layers(run)
    if name in ("rmse", "cosine") and len(shown_estimators(run)) > MOST_LINES:
        shown = few_layers(shown)
        caption += " Each row shows one family of estimators, with all others in pale grey."
    if len(shown) < layers and name != "break-even":
        words += f" {len(shown)} of the {layers} sets of parameters are shown: some layers, evenly among those with a"
        words += " gradient, the head and all together."
    return f"{caption} {words}".rstrip()


def selection_words(run: Evaluation) -> str:
    """Which estimators figures and tables of pairs show, in words; empty where they show all.

    Args:
        run: its tables are read.

    Returns:
        A sentence.
    """
    total, shown = run.summary["estimator"].nunique(), len(shown_estimators(run))
    if shown == total:
        return ""
    return (
        f"{shown} of the {total} estimators are shown: up to {MOST_KNOWN} built-in ones under their usual names, and "
        "those whose single draws are the most accurate."
    )


def save_run_figures(run: Evaluation, folder: Path) -> list[Path]:
    """Write every figure that the run has tables for, as SVG, PNG and PDF; remove those it has none for.

    Args:
        run: its tables are read.
        folder: is made if need be.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        path for name, (function, _) in RUN_FIGURES.items() for path in save_figure(function(run).figure, folder, name)
    ]
