"""Of very many data points some are kept and drawn."""

from __future__ import annotations

import pandas as pd

from gradeval.analysis.run.points import MOST_DRAWN, some_points


def table(positive: int, negative: int) -> pd.DataFrame:
    total = positive + negative
    return pd.DataFrame({"x": range(total), "y": 0.0, "target": [1.0] * positive + [-1.0] * negative})


def test_few_points_are_all_kept() -> None:
    points = table(MOST_DRAWN - 100, 100)
    assert some_points(points) is points


def test_of_many_points_every_class_keeps_its_share() -> None:
    """Planted: the first rows alone, which are all of one class."""
    kept = some_points(table(90_000, 10_000))
    assert kept["target"].value_counts().to_dict() == {1.0: 1800, -1.0: 200}
    assert kept["x"].is_monotonic_increasing
    assert kept["x"].iloc[0] == 0
    assert kept["x"].iloc[-1] == 99_999
    assert some_points(table(90_000, 10_000)).equals(kept)
    assert some_points(table(100_000, 1))["target"].value_counts()[-1.0] == 1
