"""The sequential test: its level, its power, and what rare events may do to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, poisson
from scipy.stats import f as fisher

from gradeval.checking.battery import ROWS, make_problem
from gradeval.checking.procedure import check
from gradeval.checking.sequential import POWER, level_of_look, mean_test, rare_event_error
from gradeval.estimators import get_estimator

pytestmark = pytest.mark.no_shapes

ONE = [make_problem(ROWS[0])]


def test_the_shares_of_all_looks_add_up_to_alpha() -> None:
    assert sum(level_of_look(0.05, k) for k in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("shape", ["full", "singular", "nearly singular"])
def test_one_look_has_its_level_its_power_and_its_ball(shape: str) -> None:
    """4000 repetitions at level 0.05; each count is within its binomial's 1 − 1e-6 interval."""
    random, repetitions, level, replicates = np.random.default_rng(1), 4000, 0.05, 64
    spread = {
        "full": np.diag([1.0, 0.5, 0.2]),
        "singular": np.outer([1.0, 2.0, -1.0], [0.3, 0.0, 0.0]),
        "nearly singular": np.diag([1.0, 1e-3, 1e-9]),
    }[shape]
    direction = np.linalg.eigh(spread @ spread.T)[1][:, -1]  # where the power is least
    alarms = outside = found = 0
    for _ in range(repetitions):
        sample = random.standard_normal((replicates, 3)) @ spread.T
        test = mean_test(sample, level, 1e-4)
        alarms += test.rejected
        outside += np.linalg.norm(test.mean) > test.radius
        found += mean_test(sample + test.detectable * direction, level, 1e-4).rejected
    most = binom.ppf(1 - 1e-6, repetitions, level)
    assert alarms <= most
    assert outside <= most
    # detectable follows the estimated covariance, as the check's stopping does
    assert found >= binom.ppf(1e-6, repetitions, POWER)


@pytest.mark.parametrize("level", [1e-2, 1e-4, 1e-8])
def test_rare_events_do_not_reject(level: float) -> None:
    """An event that makes the whole mean, seen k times in N draws, k ~ Poisson(λ): the test's level, for λ from where k
    is hardly ever 0 to many. P(k) is exact; P(rejected | k) by 10 multinomials; 1.5 × the level for skewness left."""
    random = np.random.default_rng(2)
    for factor in (1, 1.5, 3, 10):
        expected = factor * math.log(1 / level)
        counts = np.arange(int(poisson.ppf(1e-3 * level, expected)), int(poisson.isf(1e-3 * level, expected)) + 1)
        floor = rare_event_error(1.0, 1, level)
        alarms = without = 0.0
        for k, chance in zip(counts, poisson.pmf(counts, expected), strict=True):
            for hits in random.multinomial(k, np.full(64, 1 / 64), size=10):
                sample = (64.0 * hits - expected)[:, None]
                alarms += chance * mean_test(sample, level, floor).rejected / 10
                without += chance * mean_test(sample, level, 0.0).rejected / 10
        assert alarms <= 1.5 * level, (factor, alarms)
        assert factor > 1 or without >= 0.9 * level  # where nothing was seen, without the floor all seems certain


def test_a_roulette_of_the_estimators_own_does_not_fail() -> None:
    """Its gradient comes once in 2000 draws, 2000 times as large. 40 seeds at 0.01: binomial limit at 1e-6.

    With looks from 2048 draws on, more than a third failed."""

    def roulette(network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        (plays,) = (randomness.uniform((1,)) < 1 / 2000).to(value.dtype) * 2000
        return value.detach() + plays * (value - value.detach())

    verdicts = [
        check(roulette, unbiased=True, alpha=0.01, detect=0.5, seed=s, max_draws=2**16, problems=ONE).verdict
        for s in range(40)
    ]
    assert verdicts.count("fails") <= binom.isf(1e-6, 40, 0.01), verdicts


def test_the_largest_draw_counts_among_ordinary_noise() -> None:
    """An event of size 30, seen 9 times on average, beside noise of variance 11 in another direction of the layer.

    R by a mean over all draws, √(E‖e‖⁴/E‖e‖²), is five times too small and T² rejects a hundred times too often.
    """
    level, draws, size, noise = 1e-4, 32768, 30.0, 0.012 * 900
    expected = math.log(1 / level)
    random = np.random.default_rng(3)
    pooled = math.sqrt((expected / draws * size**4 + 3 * noise**2) / (expected / draws * size**2 + noise))
    alarms = dict.fromkeys(("largest", "pooled"), 0.0)
    for k in range(8):  # with more of 9.2 expected events nothing is near rejection
        chance = poisson.pmf(k, expected)
        for hits in random.multinomial(k, np.full(64, 1 / 64), size=200):
            rare = size * (64 * hits - expected) / draws
            sample = np.column_stack([rare, math.sqrt(64 * noise / draws) * random.standard_normal(64)])
            for name, found in (("largest", size), ("pooled", pooled)):
                floor = rare_event_error(found, draws, level)
                alarms[name] += chance * mean_test(sample, level, floor).rejected / 200
    assert alarms["largest"] <= 2 * level  # 1 of them is that nothing is seen at all
    assert alarms["pooled"] > 10 * level


def test_draws_that_are_all_exact_have_no_variance() -> None:
    """Chance that is taken and not used: sampled, and the bound on the variance holds."""
    (problem,) = ONE

    def exact(network, inputs, loss, randomness):
        randomness.uniform((1,))
        (layer,) = network.layers
        a = layer.preactivation(inputs)
        states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=a.dtype)] * a.shape[-1]).reshape(-1, a.shape[-1])
        terms = [layer.log_prob(s.expand_as(a), a).exp() * loss(layer.encode(s.expand_as(a))) for s in states]
        return torch.stack(terms).sum(0)

    verdict = check(exact, unbiased=True, max_relative_variance=1e-3, problems=[problem], workers=1)
    assert verdict.verdict == "holds", verdict
    assert (verdict.table["method"] == "sampled").all()


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_more_entries_than_replicates_are_tested_by_the_same_formula(shift: float) -> None:
    """80 entries that vary in 3 directions, with a bias outside them: T² by the 80 × 80 matrix S + floor² I itself.

    Planted: without what lies outside the directions, the statistic of the shifted mean is too small to reject.
    """
    random, level, floor, replicates = np.random.default_rng(4), 1e-4, 0.05, 64
    sample = random.standard_normal((replicates, 3)) @ random.standard_normal((3, 80))
    outside = np.linalg.svd(sample)[2][-1]
    sample += shift * outside
    found = mean_test(sample, level, floor)
    mean, covariance = sample.mean(0), np.cov(sample.T) / replicates
    statistic = mean @ np.linalg.solve(covariance + floor**2 * np.eye(80), mean)
    critical = 3 * 63 / 61 * fisher.isf(level, 3, 61)
    assert found.rejected == (statistic > critical) == (shift > 0)
    assert found.noise == pytest.approx(np.trace(covariance))
    largest = np.linalg.eigvalsh(covariance)[-1] + floor**2
    assert found.radius == pytest.approx(math.sqrt(critical * largest))
