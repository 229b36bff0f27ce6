"""Verdicts: what numbers they follow from, and how they are said in a word."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from gradeval.analysis.run.scale_free import SCALE_FREE
from gradeval.analysis.run.summary import BiasVerdict, _verdict, best_known

ROW = {
    "unbiased_claim": True,
    "cosine": 0.5,
    "exact_relative_bias": math.nan,
    "relative_bias_low": 0.0,
    "bias_pvalue": 0.3,
    "bias_pvalue_adjusted": 0.3,
    "detectable_bias": 0.03,
}


@pytest.mark.parametrize(
    ("numbers", "claimed", "otherwise"),
    [
        ({}, BiasVerdict.HOLDS, BiasVerdict.NO_BIAS_SEEN),
        ({"bias_pvalue": 0.001, "bias_pvalue_adjusted": 0.0101}, BiasVerdict.HOLDS, BiasVerdict.NO_BIAS_SEEN),
        ({"relative_bias_low": 0.1}, BiasVerdict.HOLDS, BiasVerdict.BIAS_UNDECIDED),  # not "no bias seen" beside it
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
        "undefined: the exact gradient is zero": ("undefined", ""),
        "undecided: the sampled reference is not told from zero": ("undecided", ""),
        "untested: no draw differs from another": ("undecided", ""),
        "claim of no bias undecided": ("undecided", ""),
        "claim of no bias holds": ("holds", "good"),
        "claim of no bias holds exactly": ("holds", "good"),
        "claim of no bias refuted": ("refuted", "bad"),
        "claim of no bias refuted exactly": ("refuted", "bad"),
        "biased": ("biased", ""),
        "bias undecided": ("bias undecided", ""),
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
    sampled = {"relative_bias": 0.2, "relative_variance": 3.0, "relative_rmse": 1.7, "scale": 0.9}
    sampled |= dict.fromkeys(SCALE_FREE, 0.4)
    columns = {f"{key}{end}": value for key, value in sampled.items() for end in ends}
    keys = ["verdict", "exact_relative_bias", "exact_relative_variance", "exact_scale"]
    rows = [
        columns | dict(zip(keys, facts, strict=True))
        for facts in (
            (BiasVerdict.HOLDS, math.nan, math.nan, math.nan),
            (BiasVerdict.REFUTED_EXACTLY, 0.1, 2.0, 1.1),
            (BiasVerdict.EXACTLY_UNBIASED, 1e-13, 2.5, 1.0),
            (BiasVerdict.UNDECIDED, math.nan, math.nan, math.nan),
            (BiasVerdict.NO_BIAS_SEEN, math.nan, math.nan, math.nan),
            (BiasVerdict.BIASED, math.nan, math.nan, math.nan),
        )
    ]
    best = best_known(pd.DataFrame(rows))
    for end in ends:
        assert list(best[f"relative_bias{end}"])[:4] == [0.2, 0.1, 0.0, 0.2]
        assert list(best[f"relative_variance{end}"])[:4] == [3.0, 2.0, 2.5, 3.0]
        assert list(best[f"relative_rmse{end}"])[:4] == [1.7, math.sqrt(2.01), math.sqrt(2.5), 1.7]
        assert list(best[f"scale{end}"])[:4] == [0.9, 1.1, 1.0, 0.9]
        assert list(best[f"rescaled_bias{end}"])[:4] == pytest.approx([0.4, 0.0, 0.0, 0.4], abs=1e-6)
        assert list(best[f"signal_to_noise{end}"])[:4] == pytest.approx([0.4, 1.1 / 2**0.5, 2.5**-0.5, 0.4])
        assert list(best[f"progress{end}"])[:4] == pytest.approx([0.4, 1.1 / 3.21**0.5, 3.5**-0.5, 0.4])
    assert list(best["exact"]) == [False, True, True, False, False, False]
    assert list(best["unbiased"]) == [True, False, True, False, False, False]
    assert list(best["biased"]) == [False, True, False, False, True, True]  # undecided is neither
    assert list(best["bias_seen"]) == [False, True, False, False, False, True]
