"""The summary: one row per estimator and layer, and what it says about the estimator's bias."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import pandas as pd

from gradeval.analysis.hypotheses import FAMILY_ALPHA
from gradeval.analysis.measures import EXACTLY_UNBIASED, relative
from gradeval.analysis.run.estimates import ROUNDING_OF_SINGLE, intervals, unbiasedness
from gradeval.analysis.run.record import EXACT_COLUMNS, Record
from gradeval.analysis.statistics import ENDS


class BiasVerdict(StrEnum):
    """What a run says about the bias of an estimator in a layer. Its text is that of the column `verdict`.

    Examples:
        >>> BiasVerdict("claim of no bias refuted exactly").short
        'refuted'
    """

    UNDEFINED = "undefined: the exact gradient is zero"
    UNTESTED = "untested: no draw differs from another"
    HOLDS = "claim of no bias holds"
    HOLDS_EXACTLY = "claim of no bias holds exactly"
    REFUTED = "claim of no bias refuted"
    REFUTED_EXACTLY = "claim of no bias refuted exactly"
    BIASED = "biased"
    NO_BIAS_SEEN = "no bias seen"
    EXACTLY_UNBIASED = "exactly unbiased"

    @property
    def short(self) -> str:
        """In a word or two, for a narrow column."""
        if self in (BiasVerdict.HOLDS, BiasVerdict.HOLDS_EXACTLY):
            return "holds"
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
    rows = [_row(record, name, layer) for name in record.moments for layer in record.slices]
    known = record.exact_moments.astype(dict.fromkeys(EXACT_COLUMNS[2:], float))  # an empty table has no types
    table = pd.DataFrame(rows).merge(known, on=["estimator", "layer"], how="left")
    table.insert(table.columns.get_loc("bias_pvalue") + 1, "bias_pvalue_adjusted", _holm(table["bias_pvalue"]))
    table["verdict"] = [_verdict(row) for row in table.itertuples()]
    return table


def best_known(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with exact bias and variance in place of the estimates, and no interval, where they are known.

    Args:
        summary: of a run.

    Returns:
        The same rows, and a column ``unbiased``: exactly so, or, where that is not known, by the estimator's claim.
    """
    table = summary.copy()
    for key in ("relative_bias", "relative_variance"):
        exact = table[f"exact_{key}"]
        if key == "relative_bias":
            exact = exact.where(~(exact < EXACTLY_UNBIASED), 0.0)
        for end in ENDS:
            table[f"{key}{end}"] = exact.where(exact.notna(), table[f"{key}{end}"])
    exact_bias = table["exact_relative_bias"]
    table["unbiased"] = table["unbiased_claim"].astype(bool).where(exact_bias.isna(), exact_bias < EXACTLY_UNBIASED)
    return table


def _row(record: Record, name: str, layer: str) -> dict[str, Any]:
    moments, norm = record.moments[name], record.norms[layer]
    facts = record.manifest["estimators"][name]
    rounding = ROUNDING_OF_SINGLE if record.manifest.get("dtype") == "float32" else 0.0
    test = unbiasedness(moments, record.exact, layer, len(record.moments) * len(record.slices), rounding)
    found = intervals(moments, record.exact, layer)
    row: dict[str, Any] = {"estimator": name, "layer": layer, "draws": moments.draws}
    row |= found.pop("relative_bias").columns("relative_bias")
    row |= {"bias_pvalue": test.pvalue if norm else math.nan}
    row |= {"detectable_bias": relative(test.detectable, norm) if norm else math.nan}
    for key, interval in found.items():
        row |= interval.columns(key)
    row |= {"seconds_per_draw": record.seconds_per_draw.get(name, math.nan)}
    row |= {key: facts[key] for key in ("layer_evaluations", "loss_evaluations", "unbiased_claim")}
    return row | {"deterministic": moments.deterministic}


def _holm(pvalues: pd.Series) -> pd.Series:
    from statsmodels.stats.multitest import multipletests

    adjusted = pd.Series(math.nan, index=pvalues.index)
    known = pvalues.notna()
    if known.any():
        adjusted[known] = multipletests(pvalues[known], method="holm")[1]
    return adjusted


def _verdict(row: Any) -> BiasVerdict:
    claimed = bool(row.unbiased_claim)
    if math.isnan(row.cosine):
        return BiasVerdict.UNDEFINED
    if not math.isnan(row.exact_relative_bias):
        if row.exact_relative_bias < EXACTLY_UNBIASED:
            return BiasVerdict.HOLDS_EXACTLY if claimed else BiasVerdict.EXACTLY_UNBIASED
        return BiasVerdict.REFUTED_EXACTLY if claimed else BiasVerdict.BIASED
    if math.isnan(row.bias_pvalue):
        return BiasVerdict.UNTESTED
    if row.bias_pvalue_adjusted < FAMILY_ALPHA:
        return BiasVerdict.REFUTED if claimed else BiasVerdict.BIASED
    return BiasVerdict.HOLDS if claimed else BiasVerdict.NO_BIAS_SEEN
