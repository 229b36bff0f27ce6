"""Verdicts: what numbers they follow from, and how they are said in a word."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from gradeval.analysis.run.summary import Verdict, _verdict, best_known

ROW = {
    "unbiased_claim": True,
    "cosine": 0.5,
    "exact_relative_bias": math.nan,
    "bias_pvalue": 0.3,
    "bias_pvalue_adjusted": 0.3,
}


@pytest.mark.parametrize(
    ("numbers", "claimed", "otherwise"),
    [
        ({}, Verdict.HOLDS, Verdict.NO_BIAS_SEEN),
        ({"bias_pvalue": 0.001, "bias_pvalue_adjusted": 0.0101}, Verdict.HOLDS, Verdict.NO_BIAS_SEEN),
        ({"bias_pvalue": 0.001, "bias_pvalue_adjusted": 0.0099}, Verdict.REFUTED, Verdict.BIASED),
        ({"bias_pvalue": math.nan, "bias_pvalue_adjusted": math.nan}, Verdict.UNTESTED, Verdict.UNTESTED),
        ({"cosine": math.nan}, Verdict.UNDEFINED, Verdict.UNDEFINED),
        ({"exact_relative_bias": 1e-12}, Verdict.HOLDS_EXACTLY, Verdict.EXACTLY_UNBIASED),
        ({"exact_relative_bias": 1e-3}, Verdict.REFUTED_EXACTLY, Verdict.BIASED),
        # what is known exactly overrules the test
        (
            {"exact_relative_bias": 1e-12, "bias_pvalue": 0.0, "bias_pvalue_adjusted": 0.0},
            Verdict.HOLDS_EXACTLY,
            Verdict.EXACTLY_UNBIASED,
        ),
    ],
)
def test_a_verdict_follows_from_the_numbers(numbers: dict[str, float], claimed: Verdict, otherwise: Verdict) -> None:
    assert _verdict(SimpleNamespace(**ROW | numbers)) is claimed
    assert _verdict(SimpleNamespace(**ROW | numbers | {"unbiased_claim": False})) is otherwise


def test_verdicts_in_a_word_and_their_tones() -> None:
    """The texts of the table are these bytes in every run that was ever saved."""
    assert {verdict.value: (verdict.short, verdict.tone) for verdict in Verdict} == {
        "undefined: the exact gradient is zero": ("undefined: the exact gradient is zero", ""),
        "untested: no draw differs from another": ("untested: no draw differs from another", ""),
        "claim of no bias holds": ("holds", "good"),
        "claim of no bias holds exactly": ("holds", "good"),
        "claim of no bias refuted": ("refuted", "bad"),
        "claim of no bias refuted exactly": ("refuted", "bad"),
        "biased": ("biased", ""),
        "no bias seen": ("no bias seen", ""),
        "exactly unbiased": ("exactly unbiased", ""),
    }


def test_verdicts_are_written_as_their_texts() -> None:
    """Planted: `str` of an enum that is no StrEnum, "Verdict.HOLDS", in a csv."""
    table = pd.DataFrame({"verdict": [Verdict.HOLDS, Verdict.BIASED]})
    assert table.to_csv(index=False) == "verdict\nclaim of no bias holds\nbiased\n"
    assert table.to_json(orient="records") == '[{"verdict":"claim of no bias holds"},{"verdict":"biased"}]'
    assert list(pd.read_parquet(_parquet(table))["verdict"]) == ["claim of no bias holds", "biased"]


def _parquet(table: pd.DataFrame):
    import io

    return io.BytesIO(table.to_parquet(index=False))


def test_exact_figures_replace_the_estimates_and_have_no_interval() -> None:
    ends = ("", "_low", "_high")
    rows = [
        {f"relative_bias{end}": 0.2 for end in ends} | {f"relative_variance{end}": 3.0 for end in ends} | facts
        for facts in (
            {"unbiased_claim": True, "exact_relative_bias": math.nan, "exact_relative_variance": math.nan},
            {"unbiased_claim": True, "exact_relative_bias": 0.1, "exact_relative_variance": 2.0},
            {"unbiased_claim": False, "exact_relative_bias": 1e-13, "exact_relative_variance": 2.5},
        )
    ]
    best = best_known(pd.DataFrame(rows))
    for end in ends:
        assert list(best[f"relative_bias{end}"]) == [0.2, 0.1, 0.0]
        assert list(best[f"relative_variance{end}"]) == [3.0, 2.0, 2.5]
    assert list(best["unbiased"]) == [True, False, True]
