"""Bands along training: what a seed does to all estimators is taken out, and bands stay where values can be."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from gradeval.analysis.statistics import mean_interval
from gradeval.analysis.training_bands import SCALES, paired_bands


def rows_of(values: dict[str, list[float]]) -> pd.DataFrame:
    """One row per estimator and seed, all at epoch 3."""
    table = [(name, seed, 3, value) for name, own in values.items() for seed, value in enumerate(own)]
    return pd.DataFrame(table, columns=["estimator", "seed", "epoch", "objective"])


def test_what_a_seed_does_to_all_estimators_is_taken_out() -> None:
    """Seeds differ by 10, estimators of a seed by noise of 0.1. Planted: a band over seeds, of half-width 12."""
    common = np.array([0.0, 10.0, 20.0])
    noise = np.array([[0.1, -0.1, 0.0], [-0.1, 0.1, 0.0]])
    rows = rows_of({name: list(5 + common + own) for name, own in zip(("a", "b"), noise, strict=True)})
    found = paired_bands(rows, "epoch", "objective", "linear").set_index("estimator")
    half = mean_interval(0.0, noise[0].std(ddof=1) / np.sqrt(3) * np.sqrt(2), 3).high
    assert tuple(found.loc["a", ["mean", "low", "high"]]) == pytest.approx((15.0, 15 - half, 15 + half))


@pytest.mark.parametrize(("scale", "least", "most"), [("log", 0.0, np.inf), ("cosine", -1.0, 1.0)])
def test_bands_stay_in_range(scale: str, least: float, most: float) -> None:
    """Planted: Student's interval of three seeds as it is, which reaches below zero and beyond one."""
    values = {"a": [0.1, 0.9, 0.99], "b": [0.9, 0.05, 0.8], "c": [0.5, 0.6, 1.0]}
    found = paired_bands(rows_of(values), "epoch", "objective", scale)
    assert ((least < found["low"]) & (found["low"] < found["mean"])).all()
    assert ((found["mean"] < found["high"]) & (found["high"] <= most)).all()
    stretch, back = SCALES[scale]
    np.testing.assert_allclose(back(stretch(np.array([0.3]))), 0.3)


def test_one_seed_one_estimator_and_values_that_are_missing() -> None:
    alone = paired_bands(rows_of({"a": [1.0, 2.0, 6.0]}), "epoch", "objective", "linear").iloc[0]
    interval = mean_interval(3.0, np.std([1, 2, 6], ddof=1) / np.sqrt(3), 3)
    assert (alone["low"], alone["high"]) == pytest.approx((interval.low, interval.high))
    once = paired_bands(rows_of({"a": [1.0], "b": [np.nan]}), "epoch", "objective", "log")
    assert once.to_numpy().tolist() == [["a", 3, 1.0, 1.0, 1.0]]


def test_paired_bands_cover_at_least_as_often_as_they_say() -> None:
    """Of 200 made-up trainings of two estimators that are alike, at least 95 % (less 4 standard errors) have bands that
    hold the mean of both; the seeds' own differences are ten times as large."""
    random, held = np.random.default_rng(0), 0
    for _ in range(200):
        common = 10 * random.normal(size=5)
        own = {name: list(common + random.normal(size=5)) for name in ("a", "b")}
        found = paired_bands(rows_of(own), "epoch", "objective", "linear").set_index("estimator")
        middle = np.mean(list(itertools.chain(*own.values())))
        held += found.loc["a", "low"] <= middle <= found.loc["a", "high"]
    assert held / 200 > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 200)
