"""The verdicts of docs/make_claims.py: by interval, never by eye."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradeval.analysis.statistics import Interval

claims = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "make_claims.py"), run_name="claims")


@pytest.mark.parametrize(
    ("interval", "verdict", "mirrored"),
    [
        (Interval(2.0, 1.1, 3.0), "supported", "refuted"),
        (Interval(2.0, 1.0, 3.0), "undecided", "undecided"),  # touches the threshold
        (Interval(1.0, 0.5, 1.5), "undecided", "undecided"),
        (Interval(0.0, -1.0, 0.9), "refuted", "supported"),
        (Interval(float("nan"), float("nan"), float("nan")), "undecided", "undecided"),
    ],
)
def test_a_verdict_follows_from_the_whole_interval(interval: Interval, verdict: str, mirrored: str) -> None:
    assert claims["above"](interval, 1.0) == verdict
    assert claims["below"](interval, 1.0) == mirrored


def test_several_statements_hold_when_each_does() -> None:
    assert claims["every"](["supported", "supported"]) == "supported"
    assert claims["every"](["supported", "undecided"]) == "undecided"
    assert claims["every"](["undecided", "refuted"]) == "refuted"


def test_means_have_students_interval_with_bonferronis_level() -> None:
    values = pd.Series([1.0, 2.0, 4.0, np.nan, np.inf])  # what is not finite compares nothing
    for comparisons in (1, 5):
        found = claims["mean"](values, comparisons)
        level = 1 - 0.05 / comparisons
        expected = stats.t.interval(level, 2, loc=7 / 3, scale=stats.sem([1, 2, 4]))
        assert (found.low, found.high) == pytest.approx(expected)


def test_nothing_is_supported_too_often() -> None:
    """4000 data sets without an effect: "supported" in 2.5 % and "refuted" in 2.5 %, to binomial error at 1e-6."""
    random = np.random.default_rng(0)
    verdicts = [claims["above"](claims["mean"](pd.Series(random.normal(size=12)))) for _ in range(4000)]
    for verdict in ("supported", "refuted"):
        assert stats.binom.ppf(1e-6, 4000, 0.025) <= verdicts.count(verdict) <= stats.binom.isf(1e-6, 4000, 0.025)
