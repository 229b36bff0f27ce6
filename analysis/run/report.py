"""report.html: one file that opens with the answer, then ranking, break-even, figures and method.

Everything in it comes from a run's saved tables and manifest. Names and notes may come from strangers' files, so the
template escapes all of them, and the page's own policy forbids any outside request.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from gradeval.analysis.run.figures import FIGURES, layer_title, save_all, write_atomically
from gradeval.analysis.run.tables import EXACTLY_UNBIASED
from gradeval.analysis.statistics import FAMILY_ALPHA

if TYPE_CHECKING:
    from gradeval.analysis.run.tables import Evaluation

# (column of `summary`, heading, explanation)
MEASURES = (
    (
        "relative_rmse",
        "RMSE, 1 draw",
        "Root-mean-square error of a single draw, √(E‖g − g*‖²) / ‖g*‖: bias and variance together. 0 is perfect; "
        "above 1, no step at all would have been closer.",
    ),
    (
        "relative_bias",
        "Bias",
        "‖E g − g*‖ / ‖g*‖: the error that no number of draws removes. An interval that begins at 0 means that no bias "
        "was seen in so many draws; where the exact bias is known, it is what counts.",
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
    ("seconds_per_draw", "Time a draw", "Compute time of one draw, on the machine of the run."),
    ("layer_evaluations", "Layer evaluations", "How often one draw evaluates a layer of the network."),
    ("loss_evaluations", "Loss evaluations", "How often one draw evaluates the loss."),
)
TEXT_COLUMNS = (
    {"title": "Estimator", "meaning": "Name of the estimator, with its options.", "sorted": False},
    {"title": "Verdict", "meaning": "What the run says about the estimator’s bias, in words.", "sorted": False},
)


def build(run: Evaluation, folder: Path) -> Path:
    """Write `figures/` and `report.html` into the folder of a run; return the path of the report."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {path.name: path for path in save_all(run, folder / "figures")}
    figures = [
        {
            "name": name,
            "caption": caption,
            "alternative": caption.split(". ")[0],
            "source": "data:image/svg+xml;base64," + base64.b64encode(drawn[f"{name}.svg"].read_bytes()).decode(),
        }
        for name, (_, caption) in FIGURES.items()
        if f"{name}.svg" in drawn
    ]
    target = folder / "report.html"
    write_atomically(target, page(run, figures).encode("utf-8"))
    return target


def page(run: Evaluation, figures: list[dict[str, str]]) -> str:
    """The report as HTML, around figures given as data URIs."""
    environment = Environment(
        loader=PackageLoader("gradeval.analysis.run", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    checks = _checks(run.fits)
    ranking = _ranking(run.summary)
    return environment.get_template("report.html.jinja").render(
        manifest=run.manifest,
        problem={"description": "", **run.manifest["problem"]},
        version=run.manifest["versions"].get("gradeval", ""),
        answer=answer(run),
        columns=[
            *TEXT_COLUMNS,
            *({"title": title, "meaning": why, "sorted": key == "relative_rmse"} for key, title, why in MEASURES),
        ],
        ranking=ranking,
        first_layer=ranking[0]["layer"],
        pair_columns=_columns("Biased estimator", "overtaken by", "from draw", "from compute time"),
        pairs=_pairs(run.breakeven),
        reduction_columns=_columns("Estimator", "Share removed", "Gain in evaluations", "Gain in time"),
        reductions=_reductions(run.variance_reduction),
        figures=figures,
        check_columns=_columns("Estimator", "Layer", "Bias", "fitted bias", "Variance", "fitted variance"),
        checks=checks,
        checks_held=sum(check["held"] for check in checks),
        fact_columns=_columns("Estimator", "Claims no bias", "Deterministic", "Source", "Notes"),
        lists=_lists(run.manifest),
    )


def _columns(*titles: str) -> list[dict[str, Any]]:
    return [{"title": title, "meaning": "Sort by this column.", "sorted": False} for title in titles]


# --- the answer ---------------------------------------------------------------------------------------------------


def answer(run: Evaluation) -> list[str]:
    """The run in a few sentences: which claims hold, which estimator to take for one draw and for many."""
    sentences = [_claims(run.summary)]
    single = run.summary[run.summary["layer"] == "all"].dropna(subset="relative_rmse")
    if not single.empty:
        sentences.append(f"From a single draw, {_best(single)}.")
    sentences += _dominated(run)
    curves = run.curves[run.curves["layer"] == "all"].dropna(subset="relative_rmse")
    estimators = curves.groupby("samples")["estimator"].nunique()
    many = max(estimators.index[estimators == estimators.max()], default=1)
    if many > 1:
        rows = curves[curves["samples"] == many]
        sentences.append(f"From the mean of {many:,} draws, {_best(rows)}{_later(run.breakeven, rows)}.")
    sentences += [f"Not evaluated: {name} ({why})." for name, why in run.manifest.get("failures", {}).items()]
    return sentences


def _dominated(run: Evaluation) -> list[str]:
    """Where one layer is most of the whole gradient: say so, and the best estimator of every other layer."""
    squares = {layer: norm**2 for layer, norm in run.norms.items() if layer != "all"}
    if not sum(squares.values()):
        return []
    largest = max(squares, key=squares.__getitem__)
    share = squares[largest] / sum(squares.values())
    rows = run.summary.dropna(subset="relative_rmse")
    rows = rows[~rows["layer"].isin(["all", largest])]
    if share < 0.8 or rows.empty:
        return []
    best = rows.loc[rows.groupby("layer", sort=False)["relative_rmse"].idxmin()]
    by_name = best.groupby("estimator", sort=False)["layer"]
    others = "; ".join(f"{name} in {_listed(map(layer_title, layers))}" for name, layers in by_name)
    part = (
        f"{layer_title(largest).replace('head', 'the head')} has {share:.0%} of the squared norm of the whole gradient"
    )
    return [f"{part[0].upper()}{part[1:]}; elsewhere the most accurate single draw is that of {others}."]


def _later(breakeven: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Which unbiased estimator is the first to overtake the best of the rows at a yet larger number of draws."""
    best = rows.loc[rows["relative_rmse"].idxmin()]
    pairs = breakeven[(breakeven["layer"] == "all") & (breakeven["biased"] == best["estimator"])]
    pairs = pairs[(pairs["draws"] > best["samples"]) & (pairs["draws"] < math.inf)]
    if pairs.empty:
        return ""
    first = pairs.loc[pairs["draws"].idxmin()]
    draws = float(f"{first.draws:.2g}")
    return f"; {first.unbiased} overtakes it at about {draws:,.0f} draws"


def _claims(summary: pd.DataFrame) -> str:
    """Which claims to be unbiased hold and which fail, with the bias that could have been seen."""
    claimed = summary[summary["unbiased_claim"].astype(bool)]
    if claimed.empty:
        return "No estimator of this run claims to be unbiased."
    tested = claimed.dropna(subset="bias_pvalue_adjusted")
    failing = tested[tested["bias_pvalue_adjusted"] < FAMILY_ALPHA]
    failed = list(dict.fromkeys(failing["estimator"]))
    held = [name for name in dict.fromkeys(tested["estimator"]) if name not in failed]
    parts = []
    if held:
        whole = tested[tested["estimator"].isin(held) & (tested["layer"] == "all")]
        sampled = whole[whole["exact_relative_bias"].isna()] if "exact_relative_bias" in whole else whole
        seen = sampled["detectable_bias"].max()
        power = (
            f" (in the gradient of all layers, a relative bias of {significant(seen)} would have been seen with "
            "probability 95%)"
            if seen > 0
            else ""
        )
        parts.append(f"The claim to be unbiased holds for {_listed(held)}{power}")
    for name in failed:
        layers = [layer_title(layer) for layer in failing[failing["estimator"] == name]["layer"]]
        parts.append(f"the claim to be unbiased fails for {name} ({_listed(layers)})")
    untested = [name for name in dict.fromkeys(claimed["estimator"]) if name not in (*held, *failed)]
    if untested:
        parts.append(f"the claim to be unbiased could not be tested for {_listed(untested)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _best(rows: pd.DataFrame) -> str:
    """The estimator with the smallest error, and those whose interval meets its interval."""
    rows = rows.sort_values("relative_rmse", kind="stable")
    first = rows.iloc[0]
    error = interval(first, "relative_rmse")
    size = f"relative RMSE {error['text']}" + (f", 95% interval {error['interval']}" if error["interval"] else "")
    if len(rows) == 1:
        return f"{first['estimator']}, the only estimator of this run, has {size}"
    near = rows.iloc[1:]
    near = list(near[near["relative_rmse_low"] <= first["relative_rmse_high"]]["estimator"])
    tie = f"; {_listed(near)} cannot be told from it" if near else ""
    return f"{first['estimator']} is the most accurate ({size}){tie}"


def _listed(words: Iterable[str]) -> str:
    """a, b and c"""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


# --- tables -------------------------------------------------------------------------------------------------------


def _ranking(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """One group of rows a layer, `all` first, each with the most accurate single draw first."""
    layers = sorted(summary["layer"].unique(), key=lambda layer: layer != "all")
    groups = []
    for layer in layers:
        rows = summary[summary["layer"] == layer].sort_values("relative_rmse", kind="stable", na_position="last")
        cells = [
            {
                "name": row["estimator"],
                "verdict": row["verdict"],
                "tone": _tone(row),
                "cells": [_cell(row, key) for key, _, _ in MEASURES],
            }
            for row in rows.to_dict("records")
        ]
        groups.append({"layer": layer, "title": layer_title(layer), "rows": cells})
    return groups


def _tone(row: dict[str, Any]) -> str:
    if not row["unbiased_claim"] or math.isnan(row["bias_pvalue_adjusted"]):
        return ""
    return "bad" if row["bias_pvalue_adjusted"] < FAMILY_ALPHA else "good"


def _cell(row: dict[str, Any], key: str) -> dict[str, str]:
    value = row[key]
    if key == "seconds_per_draw":
        return {"value": _sortable(value), "text": duration(value), "interval": ""}
    if key == "bias_pvalue_adjusted":
        small = "< 0.0001" if value < 1e-4 else significant(value)
        return {"value": _sortable(value), "text": small, "interval": ""}
    if key == "descent_probability":
        return interval(row, key, percent=True)
    cell = interval(row, key)
    exact = row.get(f"exact_{key}", math.nan)
    if not math.isnan(exact):
        known = f"exactly {significant(exact) if exact > EXACTLY_UNBIASED else 0}"
        cell["interval"] = ", ".join(filter(None, (cell["interval"], known)))
    return cell


def _pairs(breakeven: pd.DataFrame) -> list[dict[str, Any]]:
    rows = breakeven[breakeven["layer"] == "all"].sort_values("draws", kind="stable")
    return [
        {
            "biased": row["biased"],
            "unbiased": row["unbiased"],
            "draws": _moment(row, "draws", lambda value: f"{math.ceil(value):,}" if value < 1e7 else f"{value:.1e}"),
            "seconds": _moment(row, "seconds", duration),
        }
        for row in rows.to_dict("records")
    ]


def _reductions(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table[table["layer"] == "all"].sort_values("share", ascending=False, kind="stable")
    return [
        {
            "name": row["estimator"],
            "cells": [
                interval(row, "share"),
                *(
                    {"value": _sortable(row[key]), "text": f"{significant(row[key])}×", "interval": ""}
                    for key in ("evaluations_gain", "seconds_gain")
                ),
            ],
        }
        for row in rows.to_dict("records")
    ]


def _moment(row: dict[str, Any], key: str, write: Any) -> dict[str, str]:
    """A break-even number in words where it is none: 0 is from the start, infinity is never."""

    def words(value: float) -> str:
        if math.isnan(value):
            return "–"
        if value <= 0:
            return "the start"
        return "never" if math.isinf(value) else str(write(value))

    low, high = words(row[f"{key}_low"]), words(row[f"{key}_high"])
    return {
        "value": _sortable(row[key]),
        "text": words(row[key]),
        "interval": "" if low == high else f"[{low}, {high}]",
    }


def _checks(fits: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "name": row["estimator"],
            "layer": layer_title(row["layer"]),
            "held": row["wls_relative_variance_low"] <= row["relative_variance"] <= row["wls_relative_variance_high"],
            "cells": [
                {"value": _sortable(row["relative_bias"]), "text": significant(row["relative_bias"]), "interval": ""},
                interval(row, "wls_relative_bias"),
                {
                    "value": _sortable(row["relative_variance"]),
                    "text": significant(row["relative_variance"]),
                    "interval": "",
                },
                interval(row, "wls_relative_variance"),
            ],
        }
        for row in fits.to_dict("records")
    ]


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


# --- numbers ------------------------------------------------------------------------------------------------------


def _sortable(value: float) -> str:
    """For the script that sorts: empty, which comes last, where there is no number."""
    return "" if math.isnan(value) else "Infinity" if math.isinf(value) else repr(float(value))


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits without an exponent where that is readable; a dash for no number."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    if abs(value) < 1e-9:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def interval(row: Any, key: str, percent: bool = False) -> dict[str, str]:
    """A number to the digits that its 95% interval supports (at most four), and the interval where it has one."""
    value = float(row[key])
    low, high = (float(row.get(f"{key}_{end}", math.nan)) for end in ("low", "high"))
    factor, unit = (100.0, "%") if percent else (1.0, "")
    half = (high - low) / 2
    if not half > 1e-6 * abs(value):  # no interval, or one from rounding
        return {
            "value": _sortable(value),
            "text": significant(factor * value) + unit * math.isfinite(value),
            "interval": "",
        }
    digits = 3
    if value and math.isfinite(half):
        digits = min(4, max(2, 2 + math.floor(math.log10(abs(value))) - math.floor(math.log10(half))))
    return {
        "value": _sortable(value),
        "text": significant(factor * value, digits) + unit,
        "interval": f"[{significant(factor * low, digits)}, {significant(factor * high, digits)}]",
    }


def duration(seconds: float) -> str:
    """34 µs, 1.2 ms, 5.0 s; a dash for no number."""
    if not math.isfinite(seconds):
        return "–" if math.isnan(seconds) else "∞"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 1e-9)} ns"
