"""The time of a draw: coverage of its interval, what old manifests lack, and what break-even makes of it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradeval.analysis.run.breakeven import breakeven_table
from gradeval.analysis.run.times import time_of_draw, timing_entries, timing_table
from gradeval.analysis.statistics import Interval


def drifting(random: np.random.Generator, batches: int, memory: float) -> np.ndarray:
    """Batches of 50 to 100 draws of 1 µs, in which the machine is up to a few times slower for ``memory`` batches."""
    draws = random.integers(50, 101, size=batches).astype(float)
    noise = random.normal(size=batches)
    slow = np.zeros(batches)
    for i in range(1, batches):
        slow[i] = memory * slow[i - 1] + math.sqrt(1 - memory**2) * noise[i]
    return np.column_stack((draws, 1e-6 * draws * np.exp(0.1 * slow - 0.005)))


@pytest.mark.parametrize(("batches", "memory"), [(8, 0.0), (64, 0.0), (64, 0.6)])
def test_intervals_of_times_cover(batches: int, memory: float) -> None:
    """500 replicates: at least 95 % to the binomial error at 1e-4 where batches are independent.

    Where neighbours are correlated at 0.6 the interval of single batches covers two in three; that of blocks at least
    85 %.
    """
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        found = time_of_draw(drifting(random, batches, memory))
        assert found.low <= found.estimate <= found.high
        covered += found.low <= 1e-6 <= found.high
    assert covered >= stats.binom.ppf(1e-4, 500, 0.85 if memory else 0.95)


def test_what_a_single_batch_says_has_no_interval() -> None:
    found = time_of_draw(np.array([[100.0, 0.2]]))
    assert found.estimate == pytest.approx(0.002)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(time_of_draw(np.zeros((0, 2))).estimate)
    assert time_of_draw(np.array([[100.0, 0.0], [100.0, 0.0]])) == Interval(0.0, 0.0, 0.0)  # a coarse clock


def test_a_slow_batch_is_in_the_interval() -> None:
    """One of eight batches is five times slower; planted: the fastest batch as the estimate."""
    times = np.column_stack((np.full(8, 10.0), np.where(np.arange(8) == 3, 50.0, 10.0)))
    found = time_of_draw(times)
    assert found.estimate == 1.5
    assert found.low < 1.0 < 2.0 < found.high


def test_entries_and_table() -> None:
    known, unknown = Interval(2.0, 1.0, 3.0), Interval(5.0, math.nan, math.nan)
    entries = timing_entries({"st": known, "psa": unknown})
    assert entries["seconds_per_draw_high"] == {"st": 3.0}
    table = timing_table(entries).set_index("estimator")
    assert table.loc["st"].tolist() == [2.0, 1.0, 3.0]
    assert table.loc["psa"].isna().tolist() == [False, True, True]


def test_break_even_in_seconds_has_the_intervals_of_the_times() -> None:
    """(V₁c₁ − V₂c₂)/b², with exact V and b: low c₁ against high c₂, and the converse."""

    def row(name: str, unbiased: bool, bias: float, variance: float, seconds: Interval) -> dict[str, object]:
        made: dict[str, object] = {"estimator": name, "layer": "all", "unbiased": unbiased, "biased": not unbiased}
        made |= Interval(bias, bias, bias).columns("relative_bias")
        made |= Interval(variance, variance, variance).columns("relative_variance")
        return made | seconds.columns("seconds_per_draw")

    def pair(one: Interval, two: Interval) -> dict[str, float]:
        rows = [row("arm", True, 0.0, 9.0, one), row("st", False, 0.5, 1.0, two)]
        return breakeven_table(pd.DataFrame(rows)).iloc[0].to_dict()

    found = pair(Interval(2.0, 1.0, 3.0), Interval(4.0, 3.0, 5.0))
    assert (found["draws"], found["draws_low"], found["draws_high"]) == (32.0, 32.0, 32.0)
    assert found["seconds"] == pytest.approx((18 - 4) / 0.25)
    assert found["seconds_low"] == pytest.approx((9 - 5) / 0.25)
    assert found["seconds_high"] == pytest.approx((27 - 3) / 0.25)
    old = pair(Interval(2.0, math.nan, math.nan), Interval(4.0, math.nan, math.nan))
    assert old["seconds"] == found["seconds"]
    assert math.isnan(old["seconds_low"])
    assert math.isnan(old["seconds_high"])
