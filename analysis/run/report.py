"""report.html: one file that opens with the answer, then ranking, break-even, figures and method.

Everything in it comes from a run's saved tables and manifest. Names and notes may come from strangers' files, so the
template escapes all of them, and the page's own policy forbids any outside request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradeval.analysis.numbers import (
    NumberCell,
    duration,
    interval_cell,
    layer_title,
    listed,
    number_cell,
    significant,
    sortable,
)
from gradeval.analysis.pages import image_source, render_page
from gradeval.analysis.run.answer import answer_sentences
from gradeval.analysis.run.choice import budget_words
from gradeval.analysis.run.figures import RUN_FIGURES, caption_of, save_run_figures, selection_words
from gradeval.analysis.run.panels import among, shown_estimators, shown_layers
from gradeval.analysis.run.reference import reference_sentence
from gradeval.analysis.run.scale_free import SCALE_FREE
from gradeval.analysis.run.summary import BiasVerdict
from gradeval.files import CannotWrite, write_whole

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation

# (column of `summary`, heading, explanation)
RANKING_COLUMNS = (
    (
        "relative_rmse",
        "RMSE, 1 draw",
        "Root-mean-square error of a single draw, √(E‖g − g*‖²) / ‖g*‖: bias and variance together. 0 is perfect; "
        "above 1, taking no step would be more accurate.",
    ),
    (
        "relative_bias",
        "Bias",
        "‖E g − g*‖ / ‖g*‖: the error that no number of draws removes. An interval that begins at 0 means that no bias "
        "was seen in so many draws; where the exact bias is known, it is what counts.",
    ),
    ("relative_variance", "Variance", "tr Σ / ‖g*‖², the variance of one draw; the mean of M draws has 1/M of it."),
    ("cosine", "Cosine, 1 draw", "Mean cosine of the angle between one draw and the exact gradient; 1 is perfect."),
    (
        "descent_probability",
        "Descent",
        "Probability that a step along one draw goes downhill: that its scalar product with the exact gradient is "
        "positive.",
    ),
    (
        "scale",
        "Scale",
        "⟨E g, g*⟩ / ‖g*‖²: 1 means that the mean has the right length along the exact gradient; below 1 it is short.",
    ),
    (
        "detectable_bias",
        "Detectable",
        "The smallest relative bias that this run would have seen with probability 95%.",
    ),
    (
        "bias_pvalue_adjusted",
        "p (adjusted)",
        "p-value of the hypothesis that there is no bias, adjusted by Holm’s method for all estimators and layers of "
        "the run. Below 0.01: there is one.",
    ),
    (
        "seconds_per_draw",
        "Time a draw",
        "Compute time of one draw, on the machine of the run; it covers what speed it had then.",
    ),
    ("layer_evaluations", "Layer evaluations", "How often one draw evaluates a layer of the network."),
    ("loss_evaluations", "Loss evaluations", "How often one draw evaluates the loss."),
    (
        "rescaled_bias",
        "Rescaled bias",
        "The relative bias of an estimator whose mean has been given the length of g*: what no learning rate takes up. "
        "It is 2 sin(θ/2), θ the angle between the mean and g*.",
    ),
    (
        "signal_to_noise",
        "Signal to noise",
        "‖E g‖ / √tr Σ of one draw. Its inverse square is the variance after the same rescaling.",
    ),
    (
        "progress",
        "Progress",
        "E⟨g, g*⟩ / (√E‖g‖² ‖g*‖): how far a step goes downhill for its length, as a share of what g* does. 1 is "
        "perfect; no factor changes it.",
    ),
)
BEFORE_VERDICT = 4  # of these columns: what a narrow screen has room for
EXACT_KEYS = ("relative_bias", "relative_variance", "relative_rmse", "scale", *SCALE_FREE)
CHOICE_HEADINGS = (
    ("Budget", "So many draws, or so many seconds of compute on the machine of the run."),
    ("Estimator", "The one with the least error of the mean of the draws that the budget pays for."),
    ("RMSE", "√(bias² + variance/M) / ‖g*‖ of the mean of M draws."),
    ("Draws, M", "How many draws the budget pays for."),
    ("Verdict", "What the run says about the estimator’s bias, in words."),
    ("Not told apart from it", "Those whose error may be as small, the smallest estimate first."),
)
MOST_RIVALS = 6
MOST_ROWS = 1500  # of a table of pairs, about 300 kB
TEXT_COLUMNS = (
    {"title": "Estimator", "meaning": "Name of the estimator, with its options.", "sorted": False},
    {"title": "Verdict", "meaning": "What the run says about the estimator’s bias, in words.", "sorted": False},
)


def build_report(run: Evaluation, folder: Path) -> Path:
    """Write `figures/` and `report.html` into the folder of a run.

    Args:
        run: its tables are read.
        folder: is made if need be.

    Returns:
        The path of the report.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {path.name: path for path in save_run_figures(run, folder / "figures")}
    figures = [
        {
            "name": name,
            "caption": caption_of(run, name),
            "alternative": caption.split(". ")[0],
            "source": image_source(drawn[f"{name}.svg"]),
        }
        for name, (_, caption) in RUN_FIGURES.items()
        if f"{name}.svg" in drawn
    ]
    target = folder / "report.html"
    write_whole(target, report_page(run, figures).encode())
    return target


def write_report(run: Evaluation, path: Path) -> Path:
    """Write the report as a page alone, or into a folder.

    Args:
        run: its tables are read.
        path: of the page, ending in .html; or of a folder, see `build_report`.

    Returns:
        The path of the page.

    Raises:
        CannotWrite: the disk is full, say.
    """
    try:
        if path.suffix.lower() not in (".html", ".htm"):
            return build_report(run, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            write_whole(path, build_report(run, Path(folder)).read_bytes())
    except OSError as error:
        raise CannotWrite(path, error) from None
    return path


def report_page(run: Evaluation, figures: list[dict[str, str]]) -> str:
    """The report as HTML.

    Args:
        run: its tables are read.
        figures: name, caption, alternative text and source of each.

    Returns:
        The page.
    """
    shown = shown_estimators(run)
    fits = run.fits.to_dict("records")
    layers = shown_layers(run)
    few = [row for row in fits if row["estimator"] in shown and row["layer"] in layers]
    ranking = _ranking(run.best)
    return render_page(
        "gradeval.analysis.run",
        "report.html.jinja",
        manifest=run.manifest,
        problem={"description": "", **run.manifest["problem"]},
        version=run.manifest["versions"].get("gradeval", ""),
        reference=reference_sentence(run),
        answer=answer_sentences(run),
        columns=_ranking_columns(),
        before=BEFORE_VERDICT,
        ranking=ranking,
        first_layer=ranking[0]["layer"],
        choice_columns=[
            {"title": title, "meaning": why, "sorted": title == "Budget"} for title, why in CHOICE_HEADINGS
        ],
        choices=_layered(run.choice, run.choice["layer"].unique(), _choices),
        pair_columns=_columns("Biased estimator", "overtaken by", "from draw", "from compute time"),
        selection=selection_words(run),
        pairs=_layered(among(run.breakeven, shown, "biased", "unbiased"), layers, _pairs),
        reduction_columns=_columns("Estimator", "Share removed", "Gain in evaluations", "Gain in time"),
        reductions=_layered(run.variance_reduction.dropna(subset="share"), layers, _reductions),
        difference_columns=_columns("Estimator", "less", "Squared error", "Variance", "p (adjusted)"),
        differences=_layered(among(run.pairs, shown, "one", "two"), layers, _differences),
        figures=figures,
        check_columns=_columns("Estimator", "Layer", "Bias", "fitted bias", "Variance", "fitted variance"),
        checks=[_check(row) for row in few],
        checks_held=sum(map(_fit_holds, fits)),
        checks_made=len(fits),
        fact_columns=_columns(
            "Estimator", "Claims no bias", "Deterministic", "Gradient of the head", "Source", "Notes"
        ),
        heads=_heads(run.manifest["estimators"]),
        lists=_lists(run.manifest),
    )


def _ranking_columns() -> list[dict[str, Any]]:
    numbers = [
        {"title": title, "meaning": why, "sorted": key == "relative_rmse"} for key, title, why in RANKING_COLUMNS
    ]
    name, verdict = TEXT_COLUMNS
    return [name, *numbers[:BEFORE_VERDICT], verdict, *numbers[BEFORE_VERDICT:]]


def _columns(*titles: str) -> list[dict[str, Any]]:
    return [{"title": title, "meaning": "Sort by this column.", "sorted": False} for title in titles]


def _ranking(best: pd.DataFrame) -> list[dict[str, Any]]:
    """One group of rows a layer, `all` first, each with the most accurate single draw first."""
    layers = sorted(best["layer"].unique(), key=lambda layer: layer != "all")
    groups = []
    for layer in layers:
        rows = best[best["layer"] == layer].sort_values("relative_rmse", kind="stable", na_position="last")
        cells = [
            {
                "name": row["estimator"],
                "verdict": row["verdict"],
                "tone": BiasVerdict(row["verdict"]).tone,
                "cells": [_cell(row, key) for key, _, _ in RANKING_COLUMNS],
            }
            for row in rows.to_dict("records")
        ]
        groups.append({"layer": layer, "title": layer_title(layer), "rows": cells})
    return groups


def _cell(row: Mapping[Any, Any], key: str) -> NumberCell:
    value = row[key]
    if key == "seconds_per_draw":
        ends = [row.get(f"{key}{end}", math.nan) for end in ("_low", "_high")]
        known = "" if math.isnan(ends[0]) else f"[{duration(ends[0])}, {duration(ends[1])}]"
        return NumberCell(sortable(value), duration(value), known)
    if key == "bias_pvalue_adjusted":
        return _pvalue_cell(value)
    if key == "descent_probability":
        return interval_cell(row, key, percent=True)
    cell = interval_cell(row, key)
    if row["exact"] and key in EXACT_KEYS:
        return NumberCell(cell.value, cell.text, "exact")
    return cell


def _heads(estimators: Mapping[str, Mapping[str, Any]]) -> str:
    """What the head's gradient is taken at, in words, where estimators differ in it."""
    by: dict[str, list[str]] = {}
    for name, facts in estimators.items():
        if head := facts.get("head", ""):
            by.setdefault(head, []).append(name)
    if len(by) < 2:
        return ""
    few = sorted(by.items(), key=lambda item: len(item[1]))
    return "; ".join(f"{head} for {listed(names)}" for head, names in few[:-1]) + f"; {few[-1][0]} for the others"


def _layered(
    table: pd.DataFrame, layers: Collection[str], rows_of: Callable[[pd.DataFrame], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """One group of rows a layer, `all` first; of a table that would make the page long, `all` alone."""
    found = sorted(table["layer"].unique(), key=lambda layer: layer != "all")
    if len(table) > MOST_ROWS:
        layers = ["all"]
    groups = [
        {"layer": layer, "title": layer_title(layer), "rows": rows_of(table[table["layer"] == layer])}
        for layer in found
        if layer in layers
    ]
    return [group for group in groups if group["rows"]]


def _choices(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The budgets in their order."""
    return [_chosen(row, place) for place, row in enumerate(rows.to_dict("records"))]


def _chosen(row: Mapping[Any, Any], place: int) -> dict[str, Any]:
    error, rivals = interval_cell(row, "relative_rmse"), row["rivals"]
    more = len(rivals) - MOST_RIVALS
    return {
        "place": place,
        "budget": budget_words(row["unit"], row["budget"]),
        "name": row["estimator"],
        "error": NumberCell(error.value, error.text, "exact") if row["exact"] else error,
        "draws": NumberCell(sortable(row["draws"]), f"{row['draws']:,.0f}" if row["estimator"] else "–"),
        "verdict": row["verdict"],
        "tone": BiasVerdict(row["verdict"]).tone if row["verdict"] else "",
        "rivals": ", ".join(rivals[:MOST_RIVALS]) + (f" and {more} more" if more > 0 else ""),
    }


def _pairs(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "biased": row["biased"],
            "unbiased": row["unbiased"],
            "draws": _moment(row, "draws", lambda value: f"{math.ceil(value):,}" if value < 1e7 else f"{value:.1e}"),
            "seconds": _moment(row, "seconds", duration),
        }
        for row in rows.sort_values("draws", kind="stable").to_dict("records")
    ]


def _reductions(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "name": row["estimator"],
            "cells": [
                interval_cell(row, "share"),
                *(
                    NumberCell(sortable(row[key]), f"{significant(row[key])}×")
                    for key in ("evaluations_gain", "seconds_gain")
                ),
            ],
        }
        for row in rows.sort_values("share", ascending=False, kind="stable").to_dict("records")
    ]


def _differences(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for row in pairs.to_dict("records"):
        square, variance = interval_cell(row, "square"), interval_cell(row, "variance")
        if row["exact"]:
            square, variance = (NumberCell(cell.value, cell.text, "exact") for cell in (square, variance))
        pvalue = NumberCell("", "–") if row["exact"] else _pvalue_cell(row["pvalue_adjusted"])
        rows.append({"one": row["one"], "two": row["two"], "cells": [square, variance, pvalue]})
    return rows


def _pvalue_cell(value: float) -> NumberCell:
    return NumberCell(sortable(value), "< 0.0001" if value < 1e-4 else significant(value))


def _moment(row: Mapping[Any, Any], key: str, write: Callable[[float], str]) -> NumberCell:
    """When an estimator is overtaken: "the start" for 0, "never" for infinity, else as ``write`` writes it."""

    def words(value: float) -> str:
        if math.isnan(value):
            return "–"
        if value <= 0:
            return "the start"
        return "never" if math.isinf(value) else write(value)

    low, high = words(row[f"{key}_low"]), words(row[f"{key}_high"])
    return NumberCell(sortable(row[key]), words(row[key]), "" if low == high else f"[{low}, {high}]")


def _fit_holds(row: Mapping[Any, Any]) -> bool:
    """Whether the interval of the fitted variance holds the direct figure."""
    return bool(row["wls_relative_variance_low"] <= row["relative_variance"] <= row["wls_relative_variance_high"])


def _check(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "name": row["estimator"],
        "layer": layer_title(row["layer"]),
        "cells": [
            number_cell(row["relative_bias"]),
            interval_cell(row, "wls_relative_bias"),
            number_cell(row["relative_variance"]),
            interval_cell(row, "wls_relative_variance"),
        ],
    }


def _lists(manifest: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The rest of the manifest as titled lists of (name, value)."""
    run = {key: manifest[key] for key in ("created", "seed", "draws", "device", "dtype")}
    problem = {key: value for key, value in manifest["problem"].items() if key != "slices"}
    return [
        (title, [(key, _words(value, seconds=title == "Timings")) for key, value in _flat(tree)])
        for title, tree in (
            ("Problem", problem),
            ("Run", run | {key: value for key, value in manifest["arguments"].items() if value is not None}),
            ("Timings", manifest["timings"]),
            ("Versions", manifest["versions"]),
        )
    ]


def _flat(tree: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, value) of a dict of values and dicts: `gradient_norms: {head: 1}` -> (gradient norms, head), 1."""
    flat = []
    for key, value in tree.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            flat += [(f"{name}, {inner}", leaf) for inner, leaf in value.items()]
        else:
            flat.append((name, value))
    return flat


def _words(value: Any, seconds: bool = False) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if seconds and isinstance(value, int | float):
        return duration(value)
    return f"{value:.8g}" if isinstance(value, float) else str(value)
