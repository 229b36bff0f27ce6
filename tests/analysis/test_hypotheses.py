"""Tests of a bias and of a change: against statsmodels, and their level and power over replicate runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.multivariate import test_mvmean as hotelling

from gradeval.analysis.hypotheses import (
    FAMILY_ALPHA,
    bias_test,
    change_test,
    holm,
    ratio_test,
    shift_test,
    variance_of_difference,
)


@pytest.mark.parametrize("tests", [0, 1, 2, 30])
def test_holm_is_that_of_statsmodels(tests: int) -> None:
    """Also with ties, and with tests that could not be made. Planted: no running maximum."""
    pvalues = np.random.default_rng(tests).random(tests).round(1) ** 3
    both = np.insert(pvalues, [0, tests // 2], math.nan)
    adjusted = holm(both)
    assert np.isnan(adjusted[np.isnan(both)]).all()
    expected = multipletests(pvalues, method="holm")[1] if tests else pvalues
    np.testing.assert_array_equal(adjusted[~np.isnan(both)], expected)


def population(p: int, seed: int) -> tuple[np.ndarray, np.random.Generator]:
    random = np.random.default_rng(seed)
    mix = random.normal(size=(p, p)) @ np.diag(np.linspace(0.1, 2, p))
    return mix, random


def sample(mix: np.ndarray, bias: np.ndarray, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    draws = bias + random.normal(size=(n, len(bias))) @ mix.T
    return draws.mean(0), np.cov(draws.T)


def draw_size(mix: np.ndarray) -> float:
    """√(E‖g‖⁴/E‖g‖²) of Gaussian draws: E‖g‖⁴ = (tr Σ)² + 2 tr Σ²."""
    covariance = mix @ mix.T
    trace = float(np.trace(covariance))
    return math.sqrt(trace + 2 * float((covariance**2).sum()) / trace)


def test_hotelling_equals_statsmodels() -> None:
    mix, random = population(4, 0)
    draws = 0.1 + random.normal(size=(200, 4)) @ mix.T
    ours = bias_test(draws.mean(0), np.cov(draws.T), 200, 0.0, 1.0, 1)
    assert ours.pvalue == pytest.approx(hotelling(draws).pvalue, rel=1e-8)


@pytest.mark.parametrize("n", [60, 4000])
def test_bias_test_has_its_level(n: int) -> None:
    """1000 unbiased replicates: p < 0.05 in at most the 1e-6 quantile of Binomial(1000, 0.05); without what is kept for
    unseen states not in fewer than the one of 0.04, with it, and many draws, of 0.02."""
    mix, random = population(6, 1)
    drawn = [sample(mix, np.zeros(6), n, random) for _ in range(1000)]
    for size, low in ((0.0, 0.04), (draw_size(mix), 0.02 if n == 4000 else 0.0)):
        found = sum(bias_test(*one, n, size, 1.0, 1).pvalue < 0.05 for one in drawn)
        assert stats.binom.ppf(1e-6, 1000, low) <= found <= stats.binom.isf(1e-6, 1000, 0.05)


@pytest.mark.parametrize("expected", [0.5, 3, 10, 30])
def test_rare_states_are_no_bias(expected: float) -> None:
    """An unbiased estimator with three states that are seen ``expected`` times in 300 draws, or not: 1000 runs, false
    alarms at 0.01 at most the 1e-6 quantile of the binomial. T² alone, without φ, cries wolf."""
    n, random = 300, np.random.default_rng(7)
    values = np.vstack([np.zeros(5), np.eye(5)])  # each rare state has a direction of its own
    rare = expected / n
    chances = np.array([1 - 3 * rare - 0.4, rare, rare, rare, 0.2, 0.2])
    values -= chances @ values
    alarms = {True: 0, False: 0}
    for counts in random.multinomial(n, chances, size=1000):
        mean = counts @ values / n
        centred = values - mean
        covariance = (centred.T * counts) @ centred / (n - 1)
        squares = (values**2).sum(1)
        size = math.sqrt(counts @ squares**2 / (counts @ squares))
        for guarded in alarms:
            alarms[guarded] += bias_test(mean, covariance, n, guarded * size, 1.0, 1).pvalue < 0.01
    assert alarms[True] <= stats.binom.isf(1e-6, 1000, 0.01)
    if expected < 5:
        assert alarms[False] > 3 * stats.binom.isf(1e-6, 1000, 0.01)


def test_detectable_bias_is_detected() -> None:
    """A bias of the stated size in the worst direction is found in 95 % of runs (binomial at 1e-6)."""
    mix, random = population(5, 2)
    covariance, size = mix @ mix.T, draw_size(mix)
    _, vectors = np.linalg.eigh(covariance)
    bias = bias_test(np.zeros(5), covariance, 1000, size, 1.0, 10).detectable * vectors[:, -1]
    found = sum(
        bias_test(*sample(mix, bias, 1000, random), 1000, size, 1.0, 10).pvalue < FAMILY_ALPHA / 10 for _ in range(400)
    )
    assert stats.binom.ppf(1e-6, 400, 0.95) <= found <= stats.binom.isf(1e-6, 400, 0.95)


def test_the_bias_of_what_does_not_vary_is_decided_by_rounding() -> None:
    constant = np.zeros((2, 2))
    assert bias_test(np.array([1e-3, 0.0]), constant, 1000, 1e-3, 1.0, 1, deterministic=True).pvalue == 0
    assert math.isnan(bias_test(np.array([1e-3, 0.0]), constant, 1000, 1e-3, 1.0, 1).pvalue)
    assert bias_test(np.array([1e-9, 0.0]), constant, 1000, 1e-9, 1.0, 1).pvalue == 1
    assert bias_test(np.zeros(2), constant, 1000, 0.0, 1.0, 1).pvalue == 1


def test_directions_without_variance_count_beyond_what_unseen_states_can_make() -> None:
    """φ = R log(1/0.01)/n = 0.008 for R = √3 and 1000 draws; also in a direction that is no axis."""
    covariance, size = np.diag([1.0, 0.0, 2.0]), math.sqrt(3)
    for bias, seen in ((1e-3, False), (0.008, False), (0.1, True)):
        assert (bias_test(np.array([0.0, bias, 0.0]), covariance, 1000, size, 1.0, 1).pvalue < 0.01) == seen
    line = np.ones((2, 2))
    assert bias_test(np.array([0.1, -0.1]), line, 1000, math.sqrt(2), 1.0, 1).pvalue < 1e-6


@pytest.mark.parametrize("comparisons", [1, 100_000])
def test_as_many_directions_as_draws_are_no_error(comparisons: int) -> None:
    """With n − rank = 1, at a small level, the noncentral F is out of reach: no bias is called detectable then."""
    for n in (2, 3, 8):
        found = bias_test(np.ones(n - 1), 1e6 * np.eye(n - 1), n, 1.0, 1.0, comparisons)
        assert found.pvalue > 0.5
        assert found.detectable > 1e3


# --- a change between two runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.5, 10.0])
def test_shift_test_has_its_level_and_its_power(margin: float) -> None:
    """500 Gaussian replicates with the change at the margin, and at the detectable size, along the widest direction.

    Rejections at 0.05 within the binomial limits at 1e-6 (one point of approximation allowed), power at least 0.95.
    """
    random = np.random.default_rng(1)
    variances = np.array([1.0, 0.5, 0.1, 0.01])
    noise = random.normal(size=(500, 4)) * np.sqrt(variances)
    detectable = shift_test(1.0, variances, margin, 10**6).detectable(0.05)
    for size in (margin, detectable):
        sizes = np.linalg.norm(noise + size * np.array([1.0, 0, 0, 0]), axis=1)
        rejected = sum(shift_test(float(d), variances, margin, 10**6).pvalue < 0.05 for d in sizes)
        if size == margin:
            assert stats.binom.ppf(1e-6, 500, 0.04) <= rejected <= stats.binom.isf(1e-6, 500, 0.06)
        else:
            assert rejected >= stats.binom.ppf(1e-6, 500, 0.95)
    aside = np.linalg.norm(noise + margin * np.array([0, 0, 0, 1.0]), axis=1)
    rejected = sum(shift_test(float(d), variances, margin, 10**6).pvalue < 0.05 for d in aside)
    assert rejected <= stats.binom.isf(1e-6, 500, 0.06)


def test_shift_test_knows_that_the_variance_is_estimated() -> None:
    """At n = 20, in one dimension, p-values are near Student's two-sided ones, not the normal's."""
    for t in (3.0, 5.0):
        found = shift_test(t, np.ones(1), 0.0, 19).pvalue
        assert 0.3 < found / (2 * stats.t.sf(t, 19)) < 3
        assert found > 2 * 2 * stats.norm.sf(t)


@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
def test_change_test_has_its_level_and_its_power(margin: float) -> None:
    """1000 normal replicates at the margin and at the detectable size: binomial limits at 1e-6."""
    noise = np.random.default_rng(2).normal(size=1000)
    detectable = change_test(0.0, 1.0, 10**6, margin).detectable(0.05)
    at_margin = sum(change_test(margin + e, 1.0, 10**6, margin).pvalue < 0.05 for e in noise)
    assert stats.binom.ppf(1e-6, 1000, 0.05) <= at_margin <= stats.binom.isf(1e-6, 1000, 0.05)
    assert sum(change_test(detectable + e, 1.0, 10**6, margin).pvalue < 0.05 for e in noise) >= stats.binom.ppf(
        1e-6, 1000, 0.95
    )


def moments(sample: np.ndarray) -> tuple[float, float]:
    """Variance of the draws, [n, P], and its standard error."""
    squares = ((sample - sample.mean(0)) ** 2).sum(1)
    return squares.mean(), squares.std() / math.sqrt(len(squares))


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_ratio_test_has_its_level_and_its_power(margin: float) -> None:
    """1000 pairs of 500 and 2000 normal draws, at the margin and at the detectable size: binomial limits at 1e-6."""
    random, draws = np.random.default_rng(5), (500, 2000)

    def rejected(factor: float) -> int:
        count = 0
        for _ in range(1000):
            sides = [moments(scale * random.normal(size=(n, 2))) for n, scale in zip(draws, (1, factor), strict=True)]
            values, errors = zip(*sides, strict=True)
            count += ratio_test(values, errors, draws, margin).pvalue < 0.05
        return count

    one, other = moments(random.normal(size=(500, 2))), moments(random.normal(size=(2000, 2)))
    detectable = ratio_test((one[0], other[0]), (one[1], other[1]), draws, margin).detectable(0.05)
    at_margin = rejected(math.sqrt(1 + margin))
    assert stats.binom.ppf(1e-6, 1000, 0.02) <= at_margin <= stats.binom.isf(1e-6, 1000, 0.05)
    assert rejected(math.sqrt(1 + detectable)) >= stats.binom.ppf(1e-6, 1000, 0.93)  # detectable is itself estimated


@pytest.mark.parametrize(
    ("probability", "size", "noise", "draws"),
    [(1e-4, 100.0, 0.1, (20_000, 20_000)), (1e-3, 30.0, 1.0, (2000, 2000)), (1e-4, 1.0, 0.0, (5000, 5000)),
     (1e-3, 1.0, 0.0, (20_000, 2000)), (1e-3, 100.0, 1.0, (2000, 20_000))],
)  # fmt: skip
def test_a_rare_state_is_no_change(probability: float, size: float, noise: float, draws: tuple[int, int]) -> None:
    """Drawn a few times or never on one side. 1000 pairs of the same code, at 1e-3 each: binomial limit at 1e-6."""
    random = np.random.default_rng(6)

    def run(n: int) -> tuple[float, float, float, float]:
        rare = size * random.binomial(n, probability) / n
        second = size * rare - rare**2  # noise enters by its own, independent, moments
        variance = second + noise**2 * random.chisquare(2 * n) / n
        return rare, second / n, variance, math.sqrt((size**3 * rare + 4 * noise**4) / n)

    bias = variance = 0
    for _ in range(1000):
        (m1, s1, v1, e1), (m2, s2, v2, e2) = map(run, draws)
        error = math.sqrt(variance_of_difference((s1, s2), draws) + noise**2 * (1 / draws[0] + 1 / draws[1]))
        bias += change_test(m2 - m1, error, min(draws) - 1, 0.0).pvalue < 1e-3
        variance += ratio_test((v1, v2), (e1, e2), draws, 0.0).pvalue < 1e-3
    assert max(bias, variance) <= stats.binom.isf(1e-6, 1000, 1e-3)


def test_a_change_without_error_is_decided_by_the_margin() -> None:
    assert change_test(0.1, 0.0, 10, 0.1).pvalue == 1
    assert change_test(-0.2, 0.0, 10, 0.1).pvalue == 0
    assert ratio_test((1.0, 1.05), (0.0, 0.0), (10, 10), 0.1).pvalue == 1
    assert ratio_test((1.0, 0.5), (0.0, 0.0), (10, 10), 0.1).pvalue == 0
    assert ratio_test((0.0, 0.0), (0.0, 0.0), (10, 10), 0.1).pvalue == 1
    assert ratio_test((1e200, 3e200), (1e198, 1e198), (99, 99), 0.1).pvalue < 1e-9  # squares stay in range
    assert ratio_test((1.0, 0.0), (0.9, 0.0), (10, 10), 0.1).pvalue > 0.1  # one rare draw on one side
    assert shift_test(0.2, np.zeros(3), 0.1, 10).pvalue == 0
    assert shift_test(0.1, np.zeros(3), 0.1, 10).pvalue == 1
    assert shift_test(0.1, np.zeros(3), 0.1, 10).detectable(0.05) == 0.1
