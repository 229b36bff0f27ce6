"""Curves and their fit: the numbers that were put in come out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from gradeval.analysis.run.curves import Blocks, best_curves, curve_rows, fit_table
from gradeval.analysis.statistics import ENDS, Interval

SAMPLES = (1, 2, 5, 10, 20, 50)


@pytest.fixture
def curves() -> pd.DataFrame:
    """bias² + variance/M exactly, with bias 0.6 and variance 8 where ‖g*‖ = 2."""
    rows = []
    for m in SAMPLES:
        count = 1000 // m
        square = 0.36 + 8 / m
        blocks = Blocks(m, count, np.array([square, 0.5]), np.array([square**2, 0.01]), np.array([[0.4], [0.6]]))
        root = math.sqrt(square)
        found = {"all": (Interval(root, 0.9 * root, 1.2 * root), Interval(0.6, 0.55, 0.65))}
        rows += curve_rows("st", ["all"], np.array([2.0]), blocks, found)
    return pd.DataFrame(rows)


def test_a_row_is_relative_to_the_norm(curves: pd.DataFrame) -> None:
    row = curves.iloc[0]
    assert row["relative_rmse"] == pytest.approx(math.sqrt(8.36) / 2)
    assert row["relative_rmse_high"] == pytest.approx(0.6 * math.sqrt(8.36))
    assert row["blocks_rmse"] == row["relative_rmse"]
    assert (row["samples"], row["blocks"], row["cosine"], row["blocks_cosine"]) == (1, 1000, 0.6, 0.5)
    assert (row["cosine_q15"], row["cosine_q85"]) == (0.4, 0.6)
    assert row["blocks_cosine_se"] == pytest.approx(0.1 / math.sqrt(1000))


def test_the_fit_finds_bias_and_variance(curves: pd.DataFrame) -> None:
    """Planted: the fit to M instead of 1/M, bias and variance exchanged, a bias that is not the root."""
    summary = pd.DataFrame(
        [{"estimator": "st", "layer": "all", "relative_bias": 0.31, "relative_variance": 2.1, "relative_rmse": 1.0}]
    )
    (fit,) = fit_table(curves, summary).to_dict("records")
    assert fit["wls_relative_bias"] == pytest.approx(0.3)
    assert fit["wls_relative_variance"] == pytest.approx(2.0)
    assert fit["wls_relative_variance_low"] < 2.0 < fit["wls_relative_variance_high"]
    assert (fit["relative_bias"], fit["relative_variance"]) == (0.31, 2.1)
    assert fit_table(curves[:2], summary).empty


def test_exact_errors_lead_where_they_are_known(curves: pd.DataFrame) -> None:
    known = pd.DataFrame(
        [
            {
                "estimator": "st",
                "layer": "all",
                "exact_relative_bias": 0.4,
                "exact_relative_variance": 3.0,
                "exact_scale": 1,
            }
        ]
    )
    found = best_curves(curves, known)
    assert list(found["samples"]) == list(SAMPLES)
    for end in ENDS:
        assert found[f"relative_rmse{end}"].to_numpy() == pytest.approx(np.sqrt(0.16 + 3 / np.array(SAMPLES)))
    assert found["exact"].all()
    assert found["cosine"].equals(curves["cosine"])
    other = best_curves(curves, known.assign(estimator="psa"))
    assert not other["exact"].any()
    assert other[curves.columns].equals(curves)


def test_a_curve_of_two_numbers_of_samples_is_not_fitted(curves: pd.DataFrame) -> None:
    """A stranger's run may hold the same number again and again: the fit would be singular, and statsmodels warn."""
    summary = pd.DataFrame({"estimator": ["st"], "layer": ["all"], "relative_bias": [0.3], "relative_variance": [2.0]})
    assert len(fit_table(curves, summary)) == 1
    for repeated in (2, [1, 2] * 3):
        assert fit_table(curves.assign(samples=repeated), summary).empty
