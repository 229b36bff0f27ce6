"""Verdicts: what numbers they follow from, and how they are said in a word."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from gradeval.analysis.run.summary import BiasVerdict, _verdict, best_known

ROW = {
    "unbiased_claim": True,
    "cosine": 0.5,
    "exact_relative_bias": math.nan,
    "bias_pvalue": 0.3,
    "bias_pvalue_adjusted": 0.3,
    "detectable_bias": 0.03,
}


@pytest.mark.parametrize(
    ("numbers", "claimed", "otherwise"),
    [
        ({}, BiasVerdict.HOLDS, BiasVerdict.NO_BIAS_SEEN),
        ({"bias_pvalue": 0.001, "bias_pvalue_adjusted": 0.0101}, BiasVerdict.HOLDS, BiasVerdict.NO_BIAS_SEEN),
        ({"bias_pvalue": 0.001, "bias_pvalue_adjusted": 0.0099}, BiasVerdict.REFUTED, BiasVerdict.BIASED),
        ({"detectable_bias": 0.0501}, BiasVerdict.UNDECIDED, BiasVerdict.NO_BIAS_SEEN),
        ({"detectable_bias": math.inf}, BiasVerdict.UNDECIDED, BiasVerdict.NO_BIAS_SEEN),
        ({"bias_pvalue": math.nan, "bias_pvalue_adjusted": math.nan}, BiasVerdict.UNTESTED, BiasVerdict.UNTESTED),
        ({"cosine": math.nan}, BiasVerdict.UNDEFINED, BiasVerdict.UNDEFINED),
        ({"exact_relative_bias": 1e-12}, BiasVerdict.HOLDS_EXACTLY, BiasVerdict.EXACTLY_UNBIASED),
        ({"exact_relative_bias": 1e-3}, BiasVerdict.REFUTED_EXACTLY, BiasVerdict.BIASED),
        # what is known exactly overrules the test
        (
            {"exact_relative_bias": 1e-12, "bias_pvalue": 0.0, "bias_pvalue_adjusted": 0.0},
            BiasVerdict.HOLDS_EXACTLY,
            BiasVerdict.EXACTLY_UNBIASED,
        ),
    ],
)
def test_a_verdict_follows_from_the_numbers(
    numbers: dict[str, float], claimed: BiasVerdict, otherwise: BiasVerdict
) -> None:
    assert _verdict(SimpleNamespace(**ROW | numbers), 0.05) is claimed
    assert _verdict(SimpleNamespace(**ROW | numbers | {"unbiased_claim": False}), 0.05) is otherwise


def test_verdicts_in_a_word_and_their_tones() -> None:
    """The texts of the table are these bytes in every run that was ever saved."""
    assert {verdict.value: (verdict.short, verdict.tone) for verdict in BiasVerdict} == {
        "undefined: the exact gradient is zero": ("undefined: the exact gradient is zero", ""),
        "untested: no draw differs from another": ("undecided", ""),
        "claim of no bias undecided": ("undecided", ""),
        "claim of no bias holds": ("holds", "good"),
        "claim of no bias holds exactly": ("holds", "good"),
        "claim of no bias refuted": ("refuted", "bad"),
        "claim of no bias refuted exactly": ("refuted", "bad"),
        "biased": ("biased", ""),
        "no bias seen": ("no bias seen", ""),
        "exactly unbiased": ("exactly unbiased", ""),
    }


def test_verdicts_are_written_as_their_texts() -> None:
    """Planted: `str` of an enum that is no StrEnum, "BiasVerdict.HOLDS", in a csv."""
    table = pd.DataFrame({"verdict": [BiasVerdict.HOLDS, BiasVerdict.BIASED]})
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
