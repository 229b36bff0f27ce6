"""A saved training: its tables, figures and report. It knows no network and trains nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, StrMethodFormatter

from gradeval.analysis.drawing import USUAL, Drawing, GivenAxes, Panels, chosen
from gradeval.analysis.numbers import interval_text, significant
from gradeval.analysis.pages import image_source, render_page
from gradeval.analysis.plotting import log_axis, save_figure, tidy
from gradeval.analysis.statistics import ENDS, UNKNOWN, Interval, mean_interval
from gradeval.analysis.training_bands import paired_bands
from gradeval.analysis.training_folder import TRAINING_TABLES, read_training, write_training
from gradeval.analysis.training_pairs import against, paired_differences
from gradeval.files import write_whole


def over_seeds(values: pd.Series) -> Interval:
    """The mean over seeds with Student's 95 % interval.

    Args:
        values: one for each seed; NaN where there is none.

    Returns:
        The mean; without ends for one seed, NaN for none.

    Examples:
        >>> over_seeds(pd.Series([1.0, 3.0])).estimate
        2.0
    """
    known = np.asarray(values.dropna(), dtype=float)
    if len(known) == 0:
        return UNKNOWN
    error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return mean_interval(float(known.mean()), error, len(known))


@dataclass(frozen=True)
class Training:
    """What `gradeval.train` found.

    Attributes:
        manifest: protocol, versions, the problem's facts.
        tables: by name, see `TRAINING_TABLES`.
    """

    manifest: dict[str, Any]
    tables: dict[str, pd.DataFrame]

    def __post_init__(self) -> None:
        for name, columns in TRAINING_TABLES.items():
            object.__setattr__(self, "tables", self.tables | {name: self.tables[name].reindex(columns=columns)})

    @property
    def estimators(self) -> list[str]:
        """Names, in the order they were given."""
        return list(self.manifest["estimators"])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Loss and accuracy of the trained networks, means over seeds with 95 % intervals.

        One row per estimator × split × predictor. Predictor "expected" is the objective, E[loss] over the network's
        states.
        """
        rates = self.tables["curves"].groupby("estimator")["rate"].first()
        rows = []
        keys = ["estimator", "split", "predictor"]
        for (name, split, predictor), group in self.tables["predictions"].groupby(keys, sort=False):
            row: dict[str, Any] = {"estimator": name, "split": split, "predictor": predictor}
            row |= {"rate": rates[name], "seeds": len(group)}
            for key in ("loss", "accuracy"):
                found = over_seeds(group[key])
                if key == "accuracy":  # a share; np.clip keeps an unknown end unknown
                    ends = np.clip([found.low, found.high], 0.0, 1.0)
                    found = Interval(found.estimate, *map(float, ends))
                row |= found.columns(key)
            rows.append(row)
        columns = [*keys, "rate", "seeds", *(f"{k}{end}" for k in ("loss", "accuracy") for end in ENDS)]
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def speed(self) -> pd.DataFrame:
        """Epochs until the objective of a run is as low as the worst estimator's mean at the end; estimator × seed."""
        curves = self.tables["curves"].dropna(subset="objective")
        final = curves[curves["epoch"] == curves["epoch"].max()].groupby("estimator")["objective"].mean()
        level = final.max() if len(final) else math.nan
        rows = []
        for (name, seed), run in curves.groupby(["estimator", "seed"], sort=False):
            reached = run.loc[run["objective"] <= level, "epoch"]
            epochs = float(reached.min()) if len(reached) else math.inf
            rows.append({"estimator": name, "seed": seed, "level": level, "epochs": epochs})
        return pd.DataFrame(rows, columns=["estimator", "seed", "level", "epochs"])

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every two estimators compared at common seeds, see `paired_differences`."""
        return paired_differences(self.tables["predictions"])

    @cached_property
    def best(self) -> str | None:
        """The estimator with the lowest mean training objective; None where nothing is trained."""
        final = self.summary[(self.summary["split"] == "train") & (self.summary["predictor"] == "expected")]
        final = final.dropna(subset="loss").sort_values("loss")
        return str(final["estimator"].iloc[0]) if len(final) else None

    def save(self, folder: str | Path) -> None:
        """Write tables (csv and parquet) and manifest, see `write_training`.

        Args:
            folder: is made if need be.
        """
        made = {"summary": self.summary, "speed": self.speed, "pairs": self.pairs}
        write_training(Path(folder), self.manifest, self.tables | made)

    @classmethod
    def load(cls, folder: str | Path) -> Training:
        """Read a saved training.

        Args:
            folder: of the training.

        Returns:
            Its manifest and tables.

        Raises:
            GradevalError: in one line, that it is missing, not finished or damaged.
        """
        return cls(*read_training(Path(folder)))


# --- figures ----------------------------------------------------------------------------------------------------------


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
            for name in names:
                band = bands[bands["estimator"] == name].sort_values(axes.x)
                style = look.line(name) | {"markevery": max(1, len(band) // 8), "markeredgewidth": 0.6}
                panel.fill_between(
                    band[axes.x], band["low"], band["high"], color=style["color"], alpha=0.12, linewidth=0
                )
                panel.plot(band[axes.x], band["mean"], label=look.label(name), **style)
            panel.set(title=title, xlabel=axes.x, ylabel="" if panels.new else axes.label)
            _set_scales(panel, axes, column, bands)
            tidy(panel)
        if panels.new and panels.figure is not None:
            panels.figure.supylabel(axes.label)
        return panels.finish(drawing, {name: look.entry(name, line=True) for name in names})


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
    "search": (
        search_figure,
        "The search for the learning rate: training objective after the trials. Validation and test data play no part.",
    ),
}


# --- the report -------------------------------------------------------------------------------------------------------


def build_training_report(training: Training, folder: str | Path) -> Path:
    """Write `figures/` and `report.html` into the folder of a training.

    Args:
        training: its tables are read.
        folder: is made if need be.

    Returns:
        The path of the report.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figures = [
        {"caption": caption, "source": image_source(path)}
        for name, (draw, caption) in TRAINING_FIGURES.items()
        for path in save_figure(draw(training).figure, folder / "figures", name)
        if path.suffix == ".svg"
    ]
    page = render_page(
        "gradeval.analysis",
        "training.html.jinja",
        manifest=training.manifest,
        answer=training_answer(training),
        groups=_groups(training.summary),
        pairs=_pairs(training),
        best=training.best,
        figures=figures,
        lists=[
            (title, [(key.replace("_", " "), _words(value)) for key, value in facts.items()])
            for title, facts in (
                ("Problem", training.manifest["problem"]),
                ("Protocol", training.manifest["kind"]["protocol"]),
                ("Seconds of compute", dict(training.tables["timings"].itertuples(index=False, name=None))),
                ("Versions", training.manifest["versions"]),
            )
        ],
    )
    write_whole(folder / "report.html", page.encode())
    return folder / "report.html"


def training_answer(training: Training) -> list[str]:
    """Say in a few sentences which estimator trained best.

    Args:
        training: its summary is read.

    Returns:
        The sentences.
    """
    summary, sentences = training.summary, []
    if training.best:
        final = summary[(summary["split"] == "train") & (summary["predictor"] == "expected")]
        best = final[final["estimator"] == training.best].iloc[0]
        others = against(training.pairs, training.best, "train", "expected")
        open_ = list(others.loc[others["better"] == "", "estimator"])
        tie = f"; in pairs of runs with the same seed, it is not told from {', '.join(open_)}" if open_ else ""
        if len(others) and not open_:
            tie = "; in pairs of runs with the same seed, it is below every other one (Holm, 5 % in all)"
        sentences.append(
            f"The lowest training objective is that of {best['estimator']}: {interval_text(best, 'loss')} "
            f"(mean over {best['seeds']} seeds with its 95 % interval){tie}."
        )
    test = summary[(summary["split"] == "test") & (summary["predictor"] == "ensemble")].dropna(subset="accuracy")
    if len(test):
        best = test.sort_values("accuracy").iloc[-1]
        share = interval_text(best, "accuracy", 100.0)
        sentences.append(f"On the test set {best['estimator']} classifies {share} % of the points correctly.")
    sentences += [f"Not trained: {name} ({why})." for name, why in training.manifest["failures"].items()]
    return sentences


def _groups(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """A table for each split: a row for each estimator, a column for each predictor and measure."""
    groups = []
    for split, rows in summary.groupby("split", sort=False):
        predictors = [str(p) for p in rows["predictor"].unique()]
        measures = [(p, m) for p in predictors for m in ("loss", "accuracy")]
        known = {(p, m) for p, m in measures if rows.loc[rows["predictor"] == p, m].notna().any()}
        columns = [pair for pair in measures if pair in known]
        body = []
        order = rows[rows["predictor"] == "expected"].sort_values("loss")["estimator"]
        for name in order:
            mine = rows[rows["estimator"] == name].set_index("predictor")
            cells = [interval_text(mine.loc[p], m, 100.0 if m == "accuracy" else 1.0) for p, m in columns]
            body.append({"name": name, "rate": significant(float(mine["rate"].iloc[0])), "cells": cells})
        titles = [f"{p}, {'accuracy %' if m == 'accuracy' else m}" for p, m in columns]
        groups.append({"title": split, "columns": titles, "rows": body})
    return groups


def _pairs(training: Training) -> list[dict[str, str]]:
    """For the report: by how much the others' training objective is above the best one's, in pairs."""
    if training.best is None:
        return []
    rows = against(training.pairs, training.best, "train", "expected")
    return [
        {
            "name": row["estimator"],
            "seeds": str(row["seeds"]),
            "difference": interval_text(row, "difference"),
            "pvalue": significant(row["pvalue_adjusted"], 2),
            "verdict": f"{row['better']} is better" if row["better"] else "undecided",
        }
        for _, row in rows.sort_values("difference").iterrows()
    ]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
