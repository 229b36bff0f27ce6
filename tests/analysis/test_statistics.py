"""Intervals against closed forms and simulation, and their coverage over replicate runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gradeval.analysis.statistics import (
    bias_interval,
    mean_interval,
    positive_mean_interval,
    quadratic_form_cdf,
    skewness,
)


def population(p: int, seed: int) -> tuple[np.ndarray, np.random.Generator]:
    random = np.random.default_rng(seed)
    mix = random.normal(size=(p, p)) @ np.diag(np.linspace(0.1, 2, p))
    return mix, random


def sample(mix: np.ndarray, bias: np.ndarray, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    draws = bias + random.normal(size=(n, len(bias))) @ mix.T
    return draws.mean(0), np.cov(draws.T)


@pytest.mark.parametrize("spread", [0.0, 3.0], ids=["round", "long"])
@pytest.mark.parametrize("size", [0.0, 0.5, 1.0, 2.0, 20.0])
def test_bias_interval_covers(size: float, spread: float) -> None:
    """400 replicates of n = 200 draws at biases of 0, ½, 1, 2 and 20 standard errors of b̂: between 94.5 and 97 % to
    binomial error at 1e-4, and never empty: the upper end is above zero."""
    random = np.random.default_rng(3)
    mix = np.diag(np.geomspace(1, 10**-spread, 6))
    direction = random.normal(size=6)
    direction /= np.linalg.norm(direction)
    truth = size * math.sqrt(np.trace(mix @ mix.T) / 200)
    covered = 0
    for _ in range(400):
        interval = bias_interval(*sample(mix, truth * direction, 200, random), 200)
        covered += interval.low <= truth <= interval.high
        assert interval.high > 0
    assert stats.binom.ppf(1e-4, 400, 0.945) <= covered <= stats.binom.isf(1e-4, 400, 0.97)


@pytest.mark.parametrize("n", [20, 100, 400])
def test_bias_interval_covers_where_draws_take_two_values(n: int) -> None:
    """Draws of ±1 with mean b: exact coverage, by the binomial distribution, at biases from 0 to 2.5 standard errors.

    A mean of exactly 0 is common there, and is no proof that b is 0. No worse than Student's interval of b itself,
    which has the same steps (89.3 % at n = 20, 94.3 % at 100), to half a point.
    """
    counts = np.arange(n + 1)
    means = 2 * counts / n - 1
    intervals = [bias_interval(np.array([m]), np.array([[(1 - m**2) * n / (n - 1)]]), n) for m in means]
    low, high = (np.array([getattr(i, end) for i in intervals]) for end in ("low", "high"))
    half = stats.t.ppf(0.975, n - 1) * np.sqrt((1 - means**2) / (n - 1))
    ours, students = [], []
    for b in np.linspace(0, 2.5, 11) / math.sqrt(n):
        chance = stats.binom.pmf(counts, n, (1 + b) / 2)
        ours.append(chance[(low <= b) & (b <= high)].sum())
        students.append(chance[np.abs(means - b) <= half].sum())
    assert min(ours) >= min(students) - 0.005
    assert max(ours) <= 0.975
    assert intervals[n // 2].high == pytest.approx(1.87 / math.sqrt(n - 1), rel=0.01)  # of no bias in sight


def test_quadratic_forms_equal_chi_square_and_simulation() -> None:
    """In the tails, where intervals read it (in the middle it is off by up to 0.015).

    χ²₅ exactly, to 3 % of the tail; non-central by 400,000 draws, to 5 % of the tail and 4.9 standard errors (1e-6).
    """
    for tail in (0.001, 0.025, 0.975, 0.999):
        found = quadratic_form_cdf(stats.chi2.ppf(tail, 5), np.ones(5), np.zeros(5))
        assert found == pytest.approx(tail, abs=0.03 * min(tail, 1 - tail))
    variances, means = np.array([1.0, 0.4, 0.1]), np.array([0.3, 0.5, 1.0])
    draws = means + np.random.default_rng(6).normal(size=(400_000, 3)) * np.sqrt(variances)
    squares = (draws**2).sum(1)
    for tail in (0.01, 0.025, 0.975, 0.99):
        error = 4.9 * math.sqrt(tail * (1 - tail) / len(squares))
        found = quadratic_form_cdf(float(np.quantile(squares, tail)), variances, means)
        assert found == pytest.approx(tail, abs=0.05 * min(tail, 1 - tail) + error)


def test_the_sign_of_the_bias_correction() -> None:
    """Estimates of no bias are 0 about half the time when tr Σ/n is subtracted, never when it is added."""
    mix, random = population(8, 4)
    estimates = [bias_interval(*sample(mix, np.zeros(8), 100, random), 100).estimate for _ in range(200)]
    noise = math.sqrt(np.trace(mix @ mix.T) / 100)
    assert np.mean(np.array(estimates) == 0) > 0.4
    assert np.mean(np.square(estimates)) < 0.5 * noise**2


def test_a_bias_where_nothing_varies_has_an_interval_too() -> None:
    """b̂ = (0, 0.1), Σ = diag(1, 0): the upper end is that of ‖b̂‖² with a bias along the first direction alone."""
    interval = bias_interval(np.array([0.0, 0.1]), np.diag([1.0, 0.0]), 100)
    assert 0.1 < interval.high < math.hypot(0.1, 2.5 / 10)


def test_deterministic_estimators_have_no_interval() -> None:
    interval = bias_interval(np.array([3.0, 4.0]), np.zeros((2, 2)), 100)
    assert (interval.estimate, interval.low, interval.high) == (5, 5, 5)
    assert positive_mean_interval(2.0, 0.0, 100).low == 2


def test_intervals_of_positive_means_cover() -> None:
    """Mean of χ²₃ draws, n = 400, 2000 replicates: 95 % to one point of approximation and binomial error at 1e-4."""
    random = np.random.default_rng(5)
    draws = random.chisquare(3, size=(2000, 400))
    covered = 0
    for row in draws:
        interval = positive_mean_interval(row.mean(), row.std(ddof=1) / 20, 400)
        covered += interval.low <= 3 <= interval.high
    assert stats.binom.ppf(1e-4, 2000, 0.94) <= covered <= stats.binom.isf(1e-4, 2000, 0.96)


def test_skewness_is_corrected() -> None:
    """Means of n = 100 draws of χ²₁ (skewness 2.8), 4000 replicates.

    Student's interval misses the mean far more often on one side. Corrected, and on the logarithm, the imbalance is
    less than half of that and the coverage is 95 % to one point of approximation and binomial error at 1e-4.
    """
    draws = np.random.default_rng(7).chisquare(1, size=(4000, 100))
    found: dict[str, list[tuple[bool, bool]]] = {"plain": [], "corrected": [], "mirrored": [], "logarithm": []}
    for row in draws:
        mean, error = row.mean(), row.std(ddof=1) / 10
        gamma = skewness(float(((row - mean) ** 3).mean()), error, 100)
        intervals = {
            "plain": (mean_interval(mean, error, 100), 1),
            "corrected": (mean_interval(mean, error, 100, gamma), 1),
            "mirrored": (mean_interval(-mean, error, 100, -gamma), -1),
            "logarithm": (positive_mean_interval(mean, error, 100, gamma), 1),
        }
        for name, (interval, truth) in intervals.items():
            found[name].append((truth < interval.low, truth > interval.high))
    misses = {name: np.sum(pairs, 0) for name, pairs in found.items()}
    for name in ("corrected", "logarithm"):
        assert stats.binom.ppf(1e-4, 4000, 0.94) <= 4000 - misses[name].sum() <= stats.binom.isf(1e-4, 4000, 0.96)
        assert abs(np.diff(misses[name])) < 0.5 * abs(np.diff(misses["plain"]))
    np.testing.assert_array_equal(misses["mirrored"][::-1], misses["corrected"])


def test_without_skewness_the_correction_is_students_interval() -> None:
    for gamma in (0.0, 1e-9):
        corrected = mean_interval(1.0, 0.1, 50, gamma)
        assert (corrected.low, corrected.high) == pytest.approx((1 - 0.1 * 2.009575, 1 + 0.1 * 2.009575), rel=1e-6)
    assert skewness(1.0, 0.0, 50) == 0


@pytest.mark.parametrize("scale", [1e-140, 1e-82, 1.0, 1e82, 1e140])
def test_the_bias_interval_has_the_scale_of_its_data(scale: float) -> None:
    bias, covariance = np.array([0.3, -0.1]), np.array([[2.0, 0.5], [0.5, 1.0]])
    one = bias_interval(bias, covariance, 100)
    found = bias_interval(scale * bias, scale * covariance * scale, 100)
    assert (found.low / scale, found.estimate / scale, found.high / scale) == pytest.approx(
        (one.low, one.estimate, one.high), rel=1e-6
    )
