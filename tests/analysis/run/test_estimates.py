"""Estimates of one layer from moments that are made up: no draws are needed to know what must come out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gradeval.analysis.hypotheses import ratio_test
from gradeval.analysis.run.curves import Blocks, curve_rows
from gradeval.analysis.run.estimates import intervals, total_variance, unbiasedness
from gradeval.analysis.run.moments import Layout, Moments

LAYOUT = Layout(2, {"1": slice(0, 1), "all": slice(0, 2)})
EXACT = np.array([3.0, 4.0])


def moments(mean: np.ndarray, covariance: np.ndarray, draws: int = 100) -> Moments:
    """Of draws with E[g − g*] = ``mean`` and Cov(g) = ``covariance``, whose scores vary as those of normal draws."""
    descents = np.array([6 * draws // 10, 7 * draws // 10])
    all_means, all_covariances = np.zeros(LAYOUT.size), np.zeros((LAYOUT.size, LAYOUT.size))
    all_means[:2], all_covariances[:2, :2] = mean, covariance
    for layer, where in LAYOUT.slices.items():
        square = LAYOUT.square(layer)
        trace = np.trace(covariance[where, where])
        all_means[square] = mean[where] @ mean[where] + trace
        all_covariances[square, square] = 2 * (covariance[where, where] ** 2).sum()
        all_means[LAYOUT.cosine(layer)] = 0.5
        all_covariances[LAYOUT.cosine(layer), LAYOUT.cosine(layer)] = 0.04
    return Moments(LAYOUT, draws, all_means, all_covariances, descents, np.zeros(8), deterministic=False)


def test_every_estimate_is_relative_to_its_layer() -> None:
    """Planted: the norm of another layer, an axis of the moments off by one, cosine for scale."""
    found = intervals(moments(np.array([0.3, 0.4]), np.diag([0.0, 0.5])), EXACT, "all")
    estimates = {key: interval.estimate for key, interval in found.items()}
    assert estimates == pytest.approx(
        {
            "relative_bias": math.sqrt(0.25 - 0.5 / 100) / 5,
            "relative_variance": 0.5 / 25,
            "cosine": 0.5,
            "relative_rmse": math.sqrt(0.25 + 0.5) / 5,
            "descent_probability": 0.7,
            "scale": (3.3 * 3 + 4.4 * 4) / 25,
        }
    )
    first = intervals(moments(np.array([0.3, 0.4]), np.diag([0.0, 0.5])), EXACT, "1")
    assert first["relative_bias"].estimate == pytest.approx(0.1)
    assert first["relative_variance"].estimate == 0
    assert first["descent_probability"].estimate == 0.6
    assert all(interval.low <= interval.estimate <= interval.high for interval in (*found.values(), *first.values()))


def test_nothing_is_relative_to_a_gradient_of_zero() -> None:
    found = intervals(moments(np.array([0.3, 0.4]), np.eye(2)), np.zeros(2), "all")
    assert {key for key, interval in found.items() if math.isnan(interval.estimate)} == set(found) - {
        "descent_probability"
    }


def test_no_interval_of_a_cosine_leaves_its_bounds() -> None:
    """Student's does, for a mean of 0.99 or −0.99 with standard error 0.1 or so; the tables and the curves cut it."""
    for end, mean in (("high", 0.99), ("low", -0.99)):
        made_up = moments(np.zeros(2), np.eye(2), draws=40)
        place = LAYOUT.cosine("1")
        made_up.mean[place], made_up.covariance[place, place] = mean, 0.5
        interval = intervals(made_up, EXACT, "1")["cosine"]
        assert getattr(interval, end) == math.copysign(1, mean)
        blocks = Blocks(1, 40, np.array([1, mean]), np.array([0.5, 0.5]), np.zeros((2, 1)))
        (row,) = curve_rows("psa", ["1"], np.ones(1), blocks)
        assert row[f"cosine_{end}"] == math.copysign(1, mean)
        assert -1 <= interval.low < mean < interval.high <= 1


def test_draws_that_are_all_as_far_from_their_mean_have_an_error_of_the_variance() -> None:
    """Draws of ±1 in two directions, 200 against 20,000 of them: V̂ differs by 2/n at random, and no more is known.

    2000 pairs at 1e-3; binomial limit at 1e-6. By the spread of ‖g − E g‖² alone about one in a hundred was found.
    """
    random, found = np.random.default_rng(8), 0

    def side(n: int) -> tuple[float, float]:
        signs = 2 * random.binomial(n, 0.5, size=2) / n - 1  # means of independent directions
        made_up = moments(signs, np.diag((1 - signs**2) * n / (n - 1)), n)
        place = LAYOUT.square("all")
        made_up.mean[place], made_up.covariance[place, place] = 2.0, 0.0
        return total_variance(made_up, EXACT, "all")

    for _ in range(2000):
        (old, old_error), (new, new_error) = side(200), side(20_000)
        found += ratio_test((old, new), (old_error, new_error), (200, 20_000), 1e-4).pvalue < 1e-3
    assert found <= stats.binom.isf(1e-6, 2000, 1e-3)


def test_a_variance_of_rounding_is_none() -> None:
    assert total_variance(moments(np.zeros(2), 1e-28 * np.eye(2)), EXACT, "all")[0] == 0
    assert total_variance(moments(np.zeros(2), 1e-20 * np.eye(2)), EXACT, "all")[0] == pytest.approx(2e-20)


def test_more_comparisons_make_a_bias_harder_to_detect() -> None:
    one, many = (unbiasedness(moments(np.zeros(2), np.eye(2)), EXACT, "all", comparisons=n) for n in (1, 1000))
    assert one.detectable < many.detectable
