"""The summary: one row per estimator and layer, and what it says about the estimator's bias."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.hypotheses import FAMILY_ALPHA, holm
from gradeval.analysis.measures import EXACTLY_UNBIASED, mean_square, relative
from gradeval.analysis.run.estimates import (
    ROUNDING_OF_SINGLE,
    Accuracy,
    accuracies_of,
    intervals,
    unbiasedness,
    unseen,
)
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.record import EXACT_COLUMNS, Record
from gradeval.analysis.run.scale_free import SCALE_FREE, exact_scale_free, scale_free_intervals
from gradeval.analysis.run.times import TIMING, times_of
from gradeval.analysis.statistics import ENDS


class BiasVerdict(StrEnum):
    """What a run says about the bias of an estimator in a layer. Its text is that of the column `verdict`.

    Examples:
        >>> BiasVerdict("claim of no bias refuted exactly").short
        'refuted'
    """

    UNDEFINED = "undefined: the exact gradient is zero"
    UNMEASURED = "undecided: the sampled reference is not told from zero"
    UNTESTED = "untested: no draw differs from another"
    UNDECIDED = "claim of no bias undecided"
    HOLDS = "claim of no bias holds"
    HOLDS_EXACTLY = "claim of no bias holds exactly"
    REFUTED = "claim of no bias refuted"
    REFUTED_EXACTLY = "claim of no bias refuted exactly"
    BIASED = "biased"
    BIAS_UNDECIDED = "bias undecided"
    NO_BIAS_SEEN = "no bias seen"
    EXACTLY_UNBIASED = "exactly unbiased"

    @property
    def short(self) -> str:
        """In a word or two, for a narrow column."""
        if self in (BiasVerdict.HOLDS, BiasVerdict.HOLDS_EXACTLY):
            return "holds"
        if self in (BiasVerdict.UNDECIDED, BiasVerdict.UNTESTED, BiasVerdict.UNMEASURED):
            return "undecided"
        if self is BiasVerdict.UNDEFINED:
            return "undefined"
        return "refuted" if self in (BiasVerdict.REFUTED, BiasVerdict.REFUTED_EXACTLY) else self.value

    @property
    def tone(self) -> str:
        """How a report colours it: "good" for a claim that holds, "bad" for one that is refuted, else empty."""
        return {"holds": "good", "refuted": "bad"}.get(self.short, "")


def summary_table(record: Record) -> pd.DataFrame:
    """The summary of a run; its columns are explained in the report.

    Args:
        record: of the run.

    Returns:
        One row per estimator × layer.
    """
    rows = []
    for name, moments in record.moments.items():
        accuracies = accuracies_of(moments, record.exact, record.rare_of(name))
        rows += [_row(record, name, layer, accuracies[layer]) for layer in record.slices]
    known = record.exact_moments.astype(dict.fromkeys(EXACT_COLUMNS[2:], float))  # an empty table has no types
    table = pd.DataFrame(rows).merge(known, on=["estimator", "layer"], how="left")
    adjusted = np.minimum(looks_factor(record.looks) * holm(table["bias_pvalue"]), 1.0)
    table.insert(table.columns.get_loc("bias_pvalue") + 1, "bias_pvalue_adjusted", adjusted)
    unmeasured = [layer for layer, norm in record.norms.items() if not norm] if record.reference else []
    table["verdict"] = [_verdict(row, record.detect, row.layer in unmeasured) for row in table.itertuples()]
    later = [f"{key}{end}" for key in SCALE_FREE for end in ENDS]  # than the columns that tables have always had
    return table[[*table.columns.drop(later), *later]]


def best_known(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with exact bias, variance, RMSE and scale in place of the estimates, without intervals, where known.

    Args:
        summary: of a run.

    Returns:
        The same rows, and columns: ``unbiased``, exactly so, or, where that is not known, by a claim that holds;
        ``biased``, not unbiased, and no claim is undecided; ``bias_seen``, whether there is a bias for certain, exactly
        or by the test of the verdict; ``exact``, whether the figures are exact.
    """
    table = summary.copy()
    bias, variance = table["exact_relative_bias"], table["exact_relative_variance"]
    bias = bias.where(~(bias < EXACTLY_UNBIASED), 0.0)
    exact = {"relative_bias": bias, "relative_variance": variance, "scale": table["exact_scale"]}
    exact["relative_rmse"] = np.sqrt(mean_square(bias, variance))
    exact |= exact_scale_free(bias, variance, table["exact_scale"])
    for key, values in exact.items():
        for end in ENDS:
            table[f"{key}{end}"] = values.where(values.notna(), table[f"{key}{end}"])
    short = table["verdict"].map(lambda verdict: BiasVerdict(verdict).short)
    table["exact"] = bias.notna()
    table["unbiased"] = (short == "holds") | (bias == 0)
    table["biased"] = ~table["unbiased"] & (short != "undecided")
    table["bias_seen"] = (short == "refuted") | (table["verdict"] == BiasVerdict.BIASED)
    return table


def _row(record: Record, name: str, layer: str, accuracy: Accuracy) -> dict[str, Any]:
    moments, norm = record.moments[name], record.norms[layer]
    facts = record.manifest["estimators"][name]
    comparisons = len(record.moments) * len(record.slices) * looks_factor(record.looks)
    missing = unseen(record.rare_of(name), moments, layer, FAMILY_ALPHA / comparisons).mean
    rounding = ROUNDING_OF_SINGLE if record.manifest.get("dtype") == "float32" else 0.0
    test = unbiasedness(moments, record.exact, layer, comparisons, missing, rounding)
    found = intervals(moments, record.exact, layer, accuracy)
    found |= scale_free_intervals(moments, record.exact, layer, accuracy, found["scale"])
    row: dict[str, Any] = {"estimator": name, "layer": layer, "draws": moments.draws}
    row |= found.pop("relative_bias").columns("relative_bias")
    row |= {"bias_pvalue": test.pvalue if norm else math.nan}
    known = record.reference.norm(layer).low if record.reference and norm else norm  # what is known of it for certain
    detectable = relative(test.detectable, known) if norm else math.nan
    row |= {
        "detectable_bias": detectable,
        "draws_to_decide": _draws_to_decide(moments.draws, detectable, record.detect, _fixed_share(moments, layer)),
    }
    for key, interval in found.items():
        row |= interval.columns(key)
    row |= times_of(record.manifest["timings"], name).columns(TIMING)
    row |= {key: facts[key] for key in ("layer_evaluations", "loss_evaluations", "unbiased_claim")}
    return row | {"deterministic": moments.deterministic}


def looks_factor(looks: int) -> int:
    """By what the p-values of the k-th look at a growing run are multiplied: k(k + 1).

    Σ 1/k(k + 1) = 1: however often more draws are added and the tables are looked at again, the error rate of all the
    verdicts together stays below the nominal one.

    Args:
        looks: k, from 1 on.

    Returns:
        The factor.

    Examples:
        >>> looks_factor(1), looks_factor(2)
        (2, 6)
    """
    return looks * (looks + 1)


def _draws_to_decide(draws: int, detectable: float, detect: float, fixed: float = 0.0) -> float:
    """About how many draws would let a bias of ``detect`` be detected: its error falls as the root of their number.

    The ``fixed`` share of the squared error, that of a sampled reference, stays.
    """
    if not math.isfinite(detectable):
        return math.nan if math.isnan(detectable) else math.inf
    ratio = (detectable / detect) ** 2
    if fixed * ratio >= 1 and ratio > 1:
        return math.inf
    needed = draws * ratio * (1 - fixed) / (1 - fixed * ratio) if fixed and ratio > 1 else draws * ratio
    return max(float(draws), float(f"{needed:.2g}"))


def _fixed_share(moments: Moments, layer: str) -> float:
    """The share that the error of a sampled reference has in the squared error of the mean of g − r̄."""
    if moments.second is None:
        return 0.0
    trace = moments.second.reference.trace(layer)
    whole = trace + max(0.0, moments.deviation(layer)[0]) / moments.draws
    return trace / whole if whole > 0 else 0.0


def _verdict(row: Any, detect: float, unmeasured: bool = False) -> BiasVerdict:
    claimed = bool(row.unbiased_claim)
    if math.isnan(row.cosine):
        return BiasVerdict.UNMEASURED if unmeasured else BiasVerdict.UNDEFINED
    if not math.isnan(row.exact_relative_bias):
        if row.exact_relative_bias < EXACTLY_UNBIASED:
            return BiasVerdict.HOLDS_EXACTLY if claimed else BiasVerdict.EXACTLY_UNBIASED
        return BiasVerdict.REFUTED_EXACTLY if claimed else BiasVerdict.BIASED
    if math.isnan(row.bias_pvalue):
        return BiasVerdict.UNTESTED
    if row.bias_pvalue_adjusted < FAMILY_ALPHA:
        return BiasVerdict.REFUTED if claimed else BiasVerdict.BIASED
    if not claimed:
        seen = row.relative_bias_low > ROUNDING_OF_SINGLE  # what is below may be rounding, and is no bias to speak of
        return BiasVerdict.BIAS_UNDECIDED if seen else BiasVerdict.NO_BIAS_SEEN
    return BiasVerdict.HOLDS if row.detectable_bias <= detect else BiasVerdict.UNDECIDED
