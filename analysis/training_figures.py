"""Figures of a training: means over seeds with intervals in pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, StrMethodFormatter

from gradeval.analysis.drawing import USUAL, Drawing, GivenAxes, Look, Panels, chosen
from gradeval.analysis.plotting import log_axis, tidy
from gradeval.analysis.training import Training
from gradeval.analysis.training_bands import paired_bands

WITHOUT_DRAWS = {"mode": 2.4, "mean-field": 6.5}
"""Predictors that draw no states, and where they stand: how far beyond the largest ensemble."""
Shown: TypeAlias = dict[str, tuple[pd.DataFrame, str]]
"""What each panel shows, by its title: rows of a table and one of its columns."""


@dataclass(frozen=True)
class _Axes:
    """Of a figure with a line for each estimator: the column on the x-axis, the scale and the label of the y-axis."""

    x: str
    y_scale: str
    label: str


def objective_figure(training: Training, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw training and validation objective against the epoch.

    Args:
        training: its curves are read.
        drawing: which estimators and panels ("training", "validation"), and how they look.
        ax: axes of your own, one for each panel. By default a new figure is made.

    Returns:
        The axes by panel; none where there is nothing to show.
    """
    curves = training.tables["curves"]
    panels = {"training": (curves, "objective")}
    if curves["validation_objective"].notna().any():
        panels["validation"] = (curves, "validation_objective")
    return _lines(training, panels, _Axes("epoch", "log", "objective"), drawing, ax)


def gradient_figure(training: Training, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw cosine and bias of the gradient of all layers along training.

    Args:
        training: its gradients are read.
        drawing: which estimators and panels ("cosine, one draw", "relative bias"), and how they look.
        ax: axes of your own, one for each panel. By default a new figure is made.

    Returns:
        The axes by panel; none where there is nothing to show.
    """
    table = training.tables["gradients"]
    rows = table[table["layer"] == "all"]
    panels = {"cosine, one draw": (rows, "cosine"), "relative bias": (rows, "relative_bias")}
    return _lines(training, panels, _Axes("epoch", "linear", "against the exact gradient"), drawing, ax)


def search_figure(training: Training, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw the training objective of the trials against the learning rate.

    Args:
        training: its trials are read.
        drawing: which estimators and panels ("trials"), and how they look.
        ax: axes of your own, one for each panel. By default a new figure is made.

    Returns:
        The axes by panel; none where there is nothing to show.
    """
    panels = {"trials": (training.tables["trials"], "objective")}
    return _lines(training, panels, _Axes("rate", "log", "training objective"), drawing, ax)


def accuracy_figure(training: Training, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw the score of predictions on held-out data against the number of draws that are averaged.

    The score is accuracy for a classification, else the loss. Beside the lines stands what "mode" and "mean-field"
    reach, which draw no states.

    Args:
        training: its ensembles and predictions are read.
        drawing: which estimators and panels ("test", "validation", or "train" where no data are held out; the first
            that there is if not given), and how they look.
        ax: axes of your own, one for each panel. By default a new figure is made.

    Returns:
        The axes by panel; none where there is nothing to show.
    """
    table = training.tables["ensembles"]
    measure = "accuracy" if table["accuracy"].notna().any() else "loss"
    table = table.dropna(subset=measure)
    splits = [split for split in ("test", "validation", "train") if (table["split"] == split).any()]
    claims = {name: facts["unbiased_claim"] for name, facts in training.manifest["estimators"].items()}
    look = drawing.look(training.estimators, claims)
    names = [name for name in look.names if (table["estimator"] == name).any()]
    keys = chosen("panel", drawing.panels, splits, splits[:1])
    if not names:
        return Panels()
    with drawing.settings(ax):
        panels = Panels.open(keys, drawing, ax, (3.4 * len(keys) + 0.4, 2.9), len(keys))
        for split, panel in panels.items():
            _draw_ensembles(panel, training, split, measure, look, names)
        return panels.finish(drawing, {name: look.entry(name, line=True) for name in names})


def _draw_ensembles(panel: Axes, training: Training, split: str, measure: str, look: Look, names: list[str]) -> None:
    """One panel of `accuracy_figure`."""
    of, percent = training.tables, measure == "accuracy"
    axes = _Axes("draws", "percent" if percent else "log", measure)
    rows, others = (table[table["split"] == split] for table in (of["ensembles"], of["predictions"]))
    others = others[others["predictor"].isin(WITHOUT_DRAWS)]
    scale = _scale_of(axes, measure, min(rows[measure].min(), others[measure].min()))
    bands, marks = (
        paired_bands(found[found["estimator"].isin(names)], x, measure, scale)
        for found, x in ((rows, "draws"), (others, "predictor"))
    )
    if percent:
        for found in (bands, marks):
            found[["mean", "low", "high"]] = 100 * found[["mean", "low", "high"]].clip(0, 1)
    _draw_lines(panel, "draws", bands, look, names)
    last = bands["draws"].max()
    places = {predictor: last * factor for predictor, factor in WITHOUT_DRAWS.items()}
    _draw_marks(panel, places, marks, look, names)
    _set_scales(panel, axes, measure, pd.concat([bands, marks]))
    panel.axvline(last * 1.35, color="0.75", linewidth=0.8)
    ticks = {float(n): str(n) for n in bands["draws"].unique() if str(n).rstrip("0") in ("1", "2", "5")}
    ticks |= {place: predictor.replace("-", "-\n") for predictor, place in places.items()}
    panel.set_xticks(list(ticks), list(ticks.values()))
    panel.set(title=f"{split} data", xlabel="draws averaged", ylabel="accuracy, %" if percent else "loss")
    tidy(panel)


def _lines(training: Training, shown: Shown, axes: _Axes, drawing: Drawing, ax: GivenAxes) -> Panels:
    """One line for each estimator in every panel: the mean over seeds with its 95 % interval."""
    known = {name for rows, _ in shown.values() for name in rows["estimator"]}
    claims = {name: facts["unbiased_claim"] for name, facts in training.manifest["estimators"].items()}
    look = drawing.look(training.estimators, claims)
    names = [name for name in look.names if name in known]
    keys = chosen("panel", drawing.panels, list(shown), list(shown))
    if not names:
        return Panels()
    with drawing.settings(ax):
        panels = Panels.open(keys, drawing, ax, (2.6 * len(keys) + 0.8, 2.6), len(keys))
        for title, panel in panels.items():
            rows, column = shown[title]
            rows = rows[rows["estimator"].isin(names)]
            bands = paired_bands(rows, axes.x, column, _scale_of(axes, column, rows[column].min()))
            _draw_lines(panel, axes.x, bands, look, names)
            panel.set(title=title, xlabel=axes.x, ylabel="" if panels.new else axes.label)
            _set_scales(panel, axes, column, bands)
            tidy(panel)
        if panels.new and panels.figure is not None:
            panels.figure.supylabel(axes.label)
        return panels.finish(drawing, {name: look.entry(name, line=True) for name in names})


def _draw_lines(panel: Axes, x: str, bands: pd.DataFrame, look: Look, names: list[str]) -> None:
    for name in names:
        band = bands[bands["estimator"] == name].sort_values(x)
        style = look.line(name) | {"markevery": max(1, len(band) // 8), "markeredgewidth": 0.6}
        panel.fill_between(band[x], band["low"], band["high"], color=style["color"], alpha=0.12, linewidth=0)
        panel.plot(band[x], band["mean"], label=look.label(name), **style)


def _draw_marks(panel: Axes, places: Mapping[str, float], marks: pd.DataFrame, look: Look, names: list[str]) -> None:
    """A column of markers for each predictor at its place, side by side, with their intervals."""
    for turn, name in zip(np.linspace(-0.15, 0.15, len(names)) if len(names) > 1 else [0.0], names, strict=True):
        mine = marks[marks["estimator"] == name]
        where = mine["predictor"].map(places) * 10**turn
        panel.vlines(where, mine["low"], mine["high"], color=look.styles[name].colour, linewidth=0.8, alpha=0.5)
        panel.plot(where, mine["mean"], linestyle="none", **look.marker(name), markeredgewidth=0.6)


def _scale_of(axes: _Axes, column: str, smallest: float) -> str:
    """The scale on which the error over seeds is taken."""
    if column == "cosine":
        return "cosine"
    return "log" if axes.y_scale == "log" and smallest > 0 else "linear"


def _set_scales(ax: Axes, axes: _Axes, column: str, bands: pd.DataFrame) -> None:
    """Scales, and limits from the means: a band of three seeds may be so wide that these were a line otherwise."""
    if axes.x == "epoch":
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(-0.1, None)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
    low, high = float(bands["mean"].min()), float(bands["mean"].max())
    logarithmic = axes.y_scale == "log" and low > 0 and high > 3 * low
    span = math.log(high / low) if logarithmic else high - low
    room = [min(span / 2, step) for step in _beyond(bands, logarithmic, low, high)]
    if logarithmic:
        log_axis(ax, "y", low * math.exp(-room[0]) / 1.05, high * math.exp(room[1]) * 1.05)
        return
    ends = low - room[0] - 0.05 * span, high + room[1] + 0.05 * span
    if column == "cosine":
        ends = max(ends[0], -1.0), min(ends[1], 1.02)
    elif axes.y_scale == "percent":
        ends = max(ends[0], -0.5), min(ends[1], 100.5)
    elif axes.y_scale == "linear":
        ends = 0.0, ends[1]
    if ends[1] > ends[0]:
        ax.set_ylim(*ends)


def _beyond(bands: pd.DataFrame, logarithmic: bool, low: float, high: float) -> tuple[float, float]:
    """How far the bands reach beyond the least and the largest mean."""
    if logarithmic:
        return math.log(low / max(float(bands["low"].min()), 1e-300)), math.log(float(bands["high"].max()) / high)
    return low - float(bands["low"].min()), float(bands["high"].max()) - high


TRAINING_FIGURES: dict[str, tuple[Callable[[Training], Panels], str]] = {
    "objective": (
        objective_figure,
        "Objective along training. Lines are means over seeds; bands are 95 % intervals in pairs: what a seed does to "
        "all estimators is taken out; a panel cuts off those wider than its lines are apart. Dashed: estimators "
        "that do not claim to be unbiased.",
    ),
    "gradients": (
        gradient_figure,
        "Accuracy of the gradient along training: each estimator at the networks that it has trained itself, against "
        "the exact gradient of all layers.",
    ),
    "accuracy": (
        accuracy_figure,
        "What the trained networks predict of held-out data, against the number of draws whose predictions are "
        "averaged; one draw is a single sample. Right of the line nothing is drawn: every layer takes its most "
        "probable states (mode), or its states are replaced by their means (mean-field). Intervals are in pairs.",
    ),
    "search": (
        search_figure,
        "The search for the learning rate: training objective after the trials. Validation and test data play no part.",
    ),
}
