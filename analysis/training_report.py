"""The report of a training: its answer, tables and figures on one page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from gradeval.analysis.numbers import interval_text, significant
from gradeval.analysis.pages import image_source, render_page
from gradeval.analysis.plotting import save_figure
from gradeval.analysis.training import Training
from gradeval.analysis.training_figures import TRAINING_FIGURES
from gradeval.analysis.training_pairs import against
from gradeval.files import write_whole


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
