"""Estimates of one layer from moments that are made up: no draws are needed to know what must come out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gradeval.analysis.hypotheses import ratio_test
from gradeval.analysis.run.directions import Direction
from gradeval.analysis.run.estimates import (
    Accuracy,
    accuracies_of,
    intervals,
    total_variance,
    unbiasedness,
)
from gradeval.analysis.run.moments import Layout, Moments
from gradeval.analysis.run.rare import RareStates
from gradeval.analysis.statistics import Interval

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
        all_means[LAYOUT.deviation(layer)] = trace
        all_covariances[LAYOUT.deviation(layer), LAYOUT.deviation(layer)] = 2 * (covariance[where, where] ** 2).sum()
        all_means[LAYOUT.cosine(layer)] = 0.5
        all_covariances[LAYOUT.cosine(layer), LAYOUT.cosine(layer)] = 0.04
    return Moments(
        LAYOUT, draws, all_means, all_covariances, descents, np.zeros(8), np.zeros((20, 4)), deterministic=False
    )


def found_in(made_up: Moments, exact: np.ndarray, layer: str) -> dict[str, Interval]:
    return intervals(made_up, exact, layer, accuracies_of(made_up, exact, None)[layer])


def test_every_estimate_is_relative_to_its_layer() -> None:
    """Planted: the norm of another layer, an axis of the moments off by one, cosine for scale."""
    found = found_in(moments(np.array([0.3, 0.4]), np.diag([0.0, 0.5])), EXACT, "all")
    estimates = {key: interval.estimate for key, interval in found.items()}
    assert estimates == pytest.approx(
        {
            "relative_bias": math.sqrt(0.25 - 0.5 / 100) / 5,
            "relative_variance": 0.5 / 25,
            "cosine": 0.5,
            "relative_rmse": math.sqrt(0.25 - 0.5 / 100 + 0.5) / 5,
            "descent_probability": 0.7,
            "scale": (3.3 * 3 + 4.4 * 4) / 25,
        }
    )
    first = found_in(moments(np.array([0.3, 0.4]), np.diag([0.0, 0.5])), EXACT, "1")
    assert first["relative_bias"].estimate == pytest.approx(0.1)
    assert first["relative_variance"].estimate == 0
    assert first["descent_probability"].estimate == 0.6
    assert all(interval.low <= interval.estimate <= interval.high for interval in (*found.values(), *first.values()))


def test_nothing_is_relative_to_a_gradient_of_zero() -> None:
    found = found_in(moments(np.array([0.3, 0.4]), np.eye(2)), np.zeros(2), "all")
    assert {key for key, interval in found.items() if math.isnan(interval.estimate)} == set(found) - {
        "descent_probability"
    }


def test_no_interval_of_a_cosine_leaves_its_bounds() -> None:
    """Student's does, for a mean of 0.99 or −0.99 with standard error 0.1 or so; the tables and the curves cut it."""
    for end, mean in (("high", 0.99), ("low", -0.99)):
        made_up = moments(np.zeros(2), np.eye(2), draws=40)
        place = LAYOUT.cosine("1")
        made_up.mean[place], made_up.covariance[place, place] = mean, 0.5
        interval = found_in(made_up, EXACT, "1")["cosine"]
        assert getattr(interval, end) == math.copysign(1, mean)
        assert -1 <= interval.low < mean < interval.high <= 1


def test_draws_that_are_all_as_far_from_their_mean_have_an_error_of_the_variance() -> None:
    """Draws of ±1 in two directions, 200 against 20,000 of them: V̂ differs by 2/n at random, and no more is known.

    2000 pairs at 1e-3; binomial limit at 1e-6. By the spread of ‖g − E g‖² alone about one in a hundred was found.
    """
    random, found = np.random.default_rng(8), 0

    def side(n: int) -> tuple[float, float]:
        signs = 2 * random.binomial(n, 0.5, size=2) / n - 1  # means of independent directions
        made_up = moments(signs, np.diag((1 - signs**2) * n / (n - 1)), n)
        place = LAYOUT.deviation("all")
        made_up.covariance[place, place] = 4 * (signs**2 * (1 - signs**2)).sum()  # of (g − ḡ)² = 1 − 2gḡ + ḡ²
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


def test_the_error_of_a_mean_of_draws_combines_both_intervals() -> None:
    """Planted: the ends of both terms added, which is wider than what independent errors need; M forgotten."""
    accuracy = Accuracy(Interval(3.0, 2.0, 4.0), Interval(16.0, 8.0, 24.0))
    found = accuracy.rmse(2)
    assert found.estimate == math.sqrt(9 + 8)
    assert found.low == pytest.approx(math.sqrt(17 - math.hypot(5, 4)))
    assert found.high == pytest.approx(math.sqrt(17 + math.hypot(7, 4)))
    assert Accuracy(Interval(0.0, 0.0, 5.0), Interval(1.0, 0.9, 1.1)).rmse().low == pytest.approx(math.sqrt(0.9))


def test_rare_states_widen_what_is_said() -> None:
    """What is missing in the mean is in the bias, what is missing in the mean square in variance and RMSE."""
    cells = np.array([[layer, 1e-3, 1e-3, 1e-3 * 50, 1e-3 * 50**2] for layer in (0, 1)])
    made_up = moments(np.array([0.3, 0.4]), np.eye(2), 100)
    plain = accuracies_of(made_up, EXACT, None)["all"]
    wide = accuracies_of(made_up, EXACT, RareStates(LAYOUT.layers, 1, cells, np.zeros(2)))["all"]
    assert wide.bias.high == pytest.approx(plain.bias.high + 0.05)
    assert wide.variance.high == pytest.approx(plain.variance.high + 2.5)
    assert (wide.variance.low, wide.bias.estimate) == (plain.variance.low, plain.bias.estimate)
    missed = [intervals(made_up, EXACT, "all", found) for found in (plain, wide)]
    (cosine, wide_cosine), (along, wide_scale) = ([found[key] for found in missed] for key in ("cosine", "scale"))
    assert wide_cosine.low == pytest.approx(cosine.low - 1e-3 * 1.5)  # of its share of draws, which may point anywhere
    assert wide_cosine.high == pytest.approx(cosine.high + 1e-3 * 0.5)
    assert (wide_scale.low, wide_scale.high) == pytest.approx((along.low - 0.05 / 5, along.high + 0.05 / 5))
    near, far = (Direction.of(made_up, EXACT, "all", missing).cosine(100) for missing in (0.0, 0.05))
    assert far.low < near.low
    assert far.high >= near.high
    assert wide.rmse().high > plain.rmse().high
    assert wide.rmse().low < plain.rmse().low


@pytest.mark.parametrize("variances", [(0.5, 0.02), (1e-3, 1e-3), (0.0, 0.4), (30.0, 4.0)])
def test_the_cosine_of_a_normal_mean(variances: tuple[float, float]) -> None:
    """Against 10⁶ normal means: within 5 standard errors (each case fails by chance at 6e-7). Planted: Σ for
    Σ/M, the root of the determinant left out."""
    random, samples, draws = np.random.default_rng(4), 50, 200
    made_up = moments(np.array([0.6, -0.4]), 50 * np.diag(variances), draws)
    unit = EXACT / 5
    along = unit @ made_up.mean[:2]
    across = made_up.mean[:2] - along * unit
    size = max(0.0, across @ across - 50 * np.trace(np.diag(variances) @ (np.eye(2) - np.outer(unit, unit))) / draws)
    middle = (5 + along) * unit + math.sqrt(size) * across / np.linalg.norm(across)
    means = middle + np.sqrt(variances) * random.normal(size=(10**6, 2))
    cosines = means @ EXACT / np.linalg.norm(means, axis=1) / 5
    found = Direction.of(made_up, EXACT, "all").cosine(samples)
    assert abs(found.estimate - cosines.mean()) < 5e-3 * cosines.std() + 1e-9
    assert found.low <= found.estimate <= found.high


def test_the_interval_of_a_normal_cosine_covers() -> None:
    """400 runs of 400 draws of normal gradients, M = 50: nominal 95 %; binomial limit at 1e-5. Planted: the
    delta method alone, which held 85 %."""
    random, spread, samples, draws = np.random.default_rng(5), np.array([4.0, 25.0]), 50, 400
    means = EXACT + np.sqrt(spread / samples) * random.normal(size=(10**6, 2))
    truth = float((means @ EXACT / np.linalg.norm(means, axis=1)).mean() / 5)
    held = 0
    for _ in range(400):
        error = np.sqrt(spread / draws) * random.normal(size=2)
        covariance = stats.wishart.rvs(draws - 1, np.diag(spread), random_state=random) / (draws - 1)
        found = Direction.of(moments(error, covariance, draws), EXACT, "all").cosine(samples)
        held += found.low <= truth <= found.high
    assert stats.binom.ppf(1e-5, 400, 0.95) <= held <= 400


def test_a_direction_of_which_little_is_known_has_a_cosine() -> None:
    """A bias across g* without an upper bound, as on saturated nets, and numbers whose squares are out of range."""
    unit, aside = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    unbounded = Direction((1.0, 0.1, 0.0), Interval(0.5, 0.0, math.inf), aside, unit, np.ones(2), 0.1).cosine(1000)
    assert abs(unbounded.low) < 0.01 < unbounded.estimate < unbounded.high <= 1
    huge = Direction((1e200, 0.0, 0.0), Interval(1e200, 1e200, 1e200), aside, unit, np.full(2, 1e300), 0.0).cosine(1)
    assert huge.estimate == pytest.approx(math.sqrt(0.5), rel=2e-6)  # the integral leaves out 1e-6 of its range


def test_errors_of_bias_and_variance_that_go_together_make_the_interval_wider() -> None:
    """√(a² + b² + 2ρab) with a = b = 1. Coverage of 92 % instead of 95 % was measured where ρ was left out."""
    for correlation, distance in ((0.0, math.sqrt(2)), (1.0, 2.0), (-1.0, 0.0), (0.5, math.sqrt(3))):
        accuracy = Accuracy(Interval(2.0, math.sqrt(3.0), math.sqrt(5.0)), Interval(4.0, 3.0, 5.0), correlation)
        rmse = accuracy.rmse()
        assert rmse.low**2 == pytest.approx(8 - distance)
        assert rmse.high**2 == pytest.approx(8 + distance)


def test_a_bias_that_may_be_noise_has_no_correlation_with_the_variance() -> None:
    """b̂ = 0.1: b̂ᵀΣb̂ = 0.01 is below tr Σ²/n = 0.02. Planted: b̂ for b, with which RMSE's interval covered 93.6 %."""
    place = LAYOUT.deviation("all")
    for size, correlation in ((0.1, 0.0), (0.2, 0.5 * 0.2 * 0.6 / math.sqrt(0.03) / 2), (100.0, 0.3)):
        made_up = moments(np.array([size, 0.0]), np.eye(2))
        made_up.covariance[0, place] = made_up.covariance[place, 0] = 0.6  # a deviation has a variance of 4
        found = accuracies_of(made_up, EXACT, None)["all"].correlation
        assert found == pytest.approx(correlation, rel=1e-5), size
