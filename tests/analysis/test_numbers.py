"""How numbers are written in reports."""

from __future__ import annotations

import math

import pytest

from gradeval.analysis.numbers import duration, interval_cell, interval_text, sortable


@pytest.mark.parametrize(
    ("value", "low", "high", "text", "interval"),
    [
        (8.7121, 8.687, 8.737, "8.712", "[8.687, 8.737]"),
        (0.0342, 0.0331, 0.0353, "0.0342", "[0.0331, 0.0353]"),
        (0.083, 0.0, 0.17, "0.083", "[0, 0.17]"),
        (0.32384, 0.32384, 0.32384, "0.324", ""),
        (0.0, 0.0, 0.0123, "0", "[0, 0.0123]"),
        (123456.0, 120000.0, 126000.0, "123,456", "[120,000, 126,000]"),
        (math.nan, math.nan, math.nan, "–", ""),
        (0.5, math.nan, math.nan, "0.500", ""),
    ],
)
def test_numbers_have_the_digits_that_their_interval_supports(
    value: float, low: float, high: float, text: str, interval: str
) -> None:
    found = interval_cell({"x": value, "x_low": low, "x_high": high}, "x")
    assert (found.text, found.interval) == (text, interval)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.4e-5, "34.0 µs"), (0.0012, "1.20 ms"), (75.0, "75.0 s"), (2e-8, "20.0 ns"), (0.0, "0 ns"), (math.nan, "–")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_number_without_an_interval_or_a_value() -> None:
    assert interval_text({"x": math.nan, "x_low": math.nan, "x_high": math.nan}, "x") == "–"
    assert interval_text({"x": 0.25, "x_low": math.nan, "x_high": math.nan}, "x") == "0.250"


def test_what_is_sorted_is_the_whole_number() -> None:
    assert [sortable(value) for value in (1 / 3, -math.inf, math.nan)] == ["0.3333333333333333", "Infinity", ""]
