"""The choice by budget, from made-up summaries and pairs: the first, its interval, and who is told apart from it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pandas as pd
import pytest

from gradeval.analysis.run.choice import choice_lines, choice_table
from gradeval.analysis.run.pairs import PAIR_COLUMNS
from gradeval.analysis.statistics import ENDS


def row(name: str, bias: Any, variance: float, **more: Any) -> dict[str, Any]:
    """A row of the best known figures; ``bias`` is a number that is exact, or three that are an interval."""
    biases = bias if isinstance(bias, tuple) else (bias, bias, bias)
    wide = (1.0, 1.0, 1.0) if not isinstance(bias, tuple) else (1.0, 0.9, 1.1)
    made: dict[str, Any] = {"estimator": name, "layer": "all", "unbiased": bias == 0.0, "verdict": "biased"}
    made |= {"exact": not isinstance(bias, tuple)}
    for end, b, share, slower in zip(ENDS, biases, wide, (1.0, 0.5, 2.0), strict=True):
        made |= {f"relative_bias{end}": b, f"relative_variance{end}": share * variance}
        made |= {f"relative_rmse{end}": math.sqrt(b**2 + share * variance), f"seconds_per_draw{end}": 0.01 * slower}
    return made | more


def pairs_of(rows: list[dict[str, Any]], width: float = 0.01, pvalue: float = 0.001) -> pd.DataFrame:
    """The differences of any two; the intervals of the variances reach ``width`` to either side."""
    found = []
    for one, two in itertools.combinations(rows, 2):
        less = one["relative_variance"] - two["relative_variance"]
        ends = {"variance": less, "variance_low": less - width, "variance_high": less + width}
        names = {"one": one["estimator"], "two": two["estimator"], "layer": "all"}
        found.append(names | ends | {"pvalue_adjusted": pvalue})
    return pd.DataFrame(found, columns=[*PAIR_COLUMNS, "pvalue_adjusted"])


def chosen(rows: list[dict[str, Any]], **of_pairs: Any) -> pd.DataFrame:
    table = choice_table(pd.DataFrame(rows), pairs_of(rows, **of_pairs))
    return table.set_index(["unit", "budget"])


def test_the_choice_changes_where_the_break_even_is() -> None:
    """st leads up to M = (9 − 1)/0.5² = 32 draws; exact figures have no interval. Planted: b for b²."""
    rows = [row("arm", 0.0, 9.0), row("st", 0.5, 1.0)]
    found = chosen(rows)
    assert list(found.loc["draws", "estimator"]) == ["st", "st", "arm", "arm", "arm"]
    assert found.loc[("draws", 100), "relative_rmse"] == pytest.approx(0.3)
    assert found.loc[("draws", 10), "relative_rmse_low"] == found.loc[("draws", 10), "relative_rmse_high"]
    assert found.loc["draws", "exact"].all()
    assert not found.loc["draws", "rivals"].map(len).any()
    lines = choice_lines(found.reset_index())
    assert lines[:3] == ["least RMSE by draws:", "  1 draw to 10 draws: st", "  100 draws to 10,000 draws: arm"]


def test_seconds_pay_for_whole_draws_and_their_interval_counts() -> None:
    """10 ms a draw, in [5, 20] ms: 1 ms pays for none, 0.1 s for 10, or 5 to 20."""
    rows = [row("arm", 0.0, 9.0), row("slow", 0.0, 8.0, seconds_per_draw=1.0, seconds_per_draw_low=1.0)]
    found = chosen(rows)
    assert found.loc[("seconds", 1e-3), "estimator"] == ""
    assert found.loc[("seconds", 1e-2), "draws"] == 1
    errors = found.loc[("seconds", 0.1), [f"relative_rmse{end}" for end in ENDS]]
    assert list(errors) == pytest.approx([math.sqrt(9 / m) for m in (10, 20, 5)])
    assert not found.loc[("seconds", 0.1), "exact"]
    assert found.loc[("seconds", 1.0), "rivals"] == []  # 9/100 against 8 of one draw, in whatever interval
    unknown = [
        row(name, 0.0, v) | {f"seconds_per_draw{e}": math.nan for e in ENDS[1:]} for name, v in (("a", 1), ("b", 9))
    ]
    assert chosen(unknown).loc[("seconds", 1.0), "rivals"] == ["b"]  # times without an interval tell nothing apart


def test_rivals_of_many_draws_are_told_apart_in_pairs() -> None:
    """The intervals of variances 1.0 and 1.1 overlap; their difference in pairs is 0.1 ± 0.01, or ± 0.2."""
    rows = [row(name, (0.0, 0.0, 1e-4), v, unbiased=True) for name, v in (("a", 1.0), ("b", 1.1))]
    assert not chosen(rows).loc["draws", "rivals"].map(len).any()
    assert list(chosen(rows, width=0.2).loc["draws", "rivals"])[1:] == [["b"]] * 4
    assert chosen(rows, pvalue=0.06).loc[("draws", 1), "rivals"] == ["b"]
    assert list(chosen(rows[::-1]).loc["draws", "rivals"]) == list(chosen(rows).loc["draws", "rivals"])


def test_a_bias_that_may_have_been_missed_keeps_rivals() -> None:
    """A claim that holds is taken at its word in the estimate; its interval reaches to the bias of 0.1."""
    rows = [row("a", (0.04, 0.0, 0.1), 1.0, unbiased=True), row("b", (0.0, 0.0, 0.1), 2.0, unbiased=True)]
    found = chosen(rows).loc["draws"]
    assert found.loc[10_000, "relative_rmse"] == pytest.approx(0.01)
    assert found.loc[10_000, "relative_rmse_high"] == pytest.approx(math.sqrt(0.1**2 + 1.1e-4))
    assert list(found["rivals"]) == [[], [], ["b"], ["b"], ["b"]]  # 0.99/M against 0.1²


def test_where_nothing_is_known_there_is_no_choice() -> None:
    nothing = row("a", 0.1, 1.0) | {
        f"relative_{key}{e}": math.nan for key in ("bias", "variance", "rmse") for e in ENDS
    }
    assert set(chosen([nothing])["estimator"]) == {""}
    assert chosen([nothing, row("b", 0.1, 1.0)]).loc["draws", "estimator"].tolist() == ["b"] * 5
