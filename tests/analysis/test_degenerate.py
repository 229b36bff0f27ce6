"""Tests and intervals on degenerate data: no exception, nothing out of order, infinity where nothing can be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradeval import Problem, StochasticBinaryNetwork, evaluate
from gradeval.analysis.comparison.baseline import Baseline
from gradeval.analysis.comparison.changes import compare
from gradeval.analysis.hypotheses import bias_test, change_test, ratio_test, shift_test
from gradeval.analysis.roots import crossing
from gradeval.analysis.statistics import LONGEST_SERIES, bias_interval, noncentral_f_cdf
from gradeval.checking.sequential import mean_test
from gradeval.errors import GradevalError


def degenerate(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """A bias, a covariance of rank 0 to full with eigenvalues over 32 orders, and a number of draws."""
    parameters = int(random.integers(1, 7))
    rank = int(random.integers(0, parameters + 1))
    scales = 10.0 ** random.uniform(-8, 8, size=rank) * 10.0 ** random.choice([-40, -8, 0, 8, 30])
    mix = random.normal(size=(parameters, rank)) * scales
    covariance, draws = mix @ mix.T, int(random.choice([2, 3, 20, 2000, 10**6]))
    unit = math.sqrt(float(covariance.diagonal().max())) or 1.0
    bias = random.normal(size=parameters) * random.choice([0, 1e-12, 1e-3, 1, 1e3, 1e12]) * unit / math.sqrt(draws)
    return bias, covariance, draws


def test_bias_tests_are_total() -> None:
    random = np.random.default_rng(0)
    for _ in range(80):
        bias, covariance, draws = degenerate(random)
        found = bias_interval(bias, covariance, draws)
        assert 0 <= found.low <= found.estimate <= found.high
        assert math.isfinite(found.estimate)
        size, scale = (float(10.0 ** random.uniform(-12, 12)) for _ in range(2))
        test = bias_test(bias, covariance, draws, size, scale, int(random.choice([1, 1000])))
        untested = math.isnan(test.pvalue)  # all draws the same
        assert test.detectable >= 0
        assert untested or 0 <= test.pvalue <= 1


def test_tests_of_a_change_are_total() -> None:
    random = np.random.default_rng(1)
    for _ in range(120):
        bias, covariance, draws = degenerate(random)
        variances = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
        margin, level = float(random.choice([1e-4, 0.02, 0.5])), float(10.0 ** random.uniform(-7, -1))
        pair = (draws, int(random.choice([2, 100, 10**6])))
        freedom = min(pair) - 1
        values = tuple(float(v) for v in random.choice([0, 1e-300, 1e-10, 1, 1e10, 1e150], 2) * random.uniform(0.5, 1))
        errors = tuple(float(e) * v for e, v in zip(random.choice([0, 1e-20, 1e-3, 1, 1e3], 2), values, strict=True))
        for test in (
            shift_test(float(np.sqrt(bias @ bias)), variances, margin, freedom),
            ratio_test(values, errors, pair, margin),
            change_test(values[1] - values[0], errors[0], freedom, margin),
        ):
            assert 0 <= test.pvalue <= 1
            assert test.detectable(level) >= margin * (1 - 1e-9)


def test_what_is_not_finite_is_refused() -> None:
    for bad in (math.nan, math.inf):
        vector, matrix = np.array([0.1, bad]), np.array([[1.0, 0.0], [0.0, bad]])
        for call in (
            lambda v=vector: bias_interval(v, np.eye(2), 10),
            lambda m=matrix: bias_interval(np.ones(2), m, 10),
            lambda m=matrix: bias_test(np.ones(2), m, 10, 1.0, 1.0, 1),
            lambda v=vector: shift_test(1.0, v, 0.1, 10),
            lambda b=bad: shift_test(b, np.ones(2), 0.1, 10),
            lambda b=bad: ratio_test((1.0, b), (0.1, 0.1), (10, 10), 0.1),
            lambda b=bad: change_test(b, 0.1, 10, 0.1),
        ):
            with pytest.raises(GradevalError, match="must be finite numbers, found"):
                call()


def test_a_shift_too_small_for_the_margins_last_digit_is_detectable_at_the_margin() -> None:
    """Standard errors of 1e-18 beside a margin of 0.02: the brackets of a root are one number."""
    test = shift_test(0.0, np.array([0.0, 1e-36]), 0.02, 199)
    assert test.sampled
    assert test.detectable(1e-5) == pytest.approx(0.02, rel=1e-12)


def test_a_shift_of_many_standard_errors_has_a_p_value_above_zero() -> None:
    """With one degree of freedom 10 standard errors happen in one of 31 runs: Student's tail, not the normal's."""
    found = shift_test(10.0, np.ones(1), 0.0, 1)
    assert found.pvalue == pytest.approx(0.0317, rel=0.1)
    assert found.detectable(0.001) == pytest.approx(318.3 + 1.64, rel=0.02)
    assert shift_test(3e6, np.ones(1), 0.0, 1).pvalue == pytest.approx(1 / (math.pi * 3e6), rel=1e-3)


def test_far_detectable_biases_are_finite() -> None:
    """300 directions and n = 10 301: scipy's series for the noncentral F is NaN at the first bracket."""
    found = bias_test(np.zeros(300), np.eye(300), 10_300, 0.0, 1.0, 100)
    assert found.detectable == pytest.approx(math.sqrt(159 / 10_300), rel=0.002)


def test_patnaiks_approximation_meets_the_series() -> None:
    below, above = LONGEST_SERIES, np.nextafter(LONGEST_SERIES, np.inf)
    for freedom in (1, 2, 5):
        series, approximation = (noncentral_f_cdf(3e7, 3, freedom, at) for at in (below, above))
        assert 0.001 < series < 0.999
        assert approximation == pytest.approx(series, rel=1e-6)


def test_mean_test_is_total() -> None:
    """A level of 1e-300, and replicates that barely suffice."""
    replicates = np.random.default_rng(0).normal(size=(14, 2))
    for level in (1e-300, 1e-12, 0.01):
        found = mean_test(replicates, level, 0.0)
        assert found.detectable > 0


def test_crossing_is_found_or_said_to_be_missing() -> None:
    assert crossing(lambda x: x - 1e6, 0.0, 1.0) == pytest.approx(1e6)
    assert crossing(lambda x: x - 1.0, 2.0, 3.0) == 2.0
    assert crossing(lambda x: x - 2.0, 1.0, 1.0) == pytest.approx(2.0)  # a guess that is no bracket
    assert crossing(lambda x: -1.0, 0.0, 1.0) == math.inf
    assert math.isnan(crossing(lambda x: math.nan, 0.0, 1.0))
    assert math.isnan(crossing(lambda x: x - 1 if x < 0.5 or x > 2 else math.nan, 0.0, 3.0))


@pytest.mark.parametrize("seed", [6, 19])
def test_saturated_nets_are_compared(seed: int) -> None:
    """2-2 nets with normal weights times 1 to 8: these once ended with "f(a) and f(b) must have different signs"."""
    random = torch.Generator().manual_seed(seed)
    network = StochasticBinaryNetwork.linear(2, [2, 2], 1, dtype=torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((1 + seed % 8) * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    problem = Problem(network, torch.randn(1, 2, generator=random, dtype=torch.float64), torch.tensor([1]))
    old, new = (
        evaluate(problem, ["reinforce", "arm", "ram"], draws=200, seed=s, exact="never", workers=1) for s in (0, 1)
    )
    table = compare(Baseline.of(old), Baseline.of(new), cost_factor=math.inf).table
    sampled = table["pvalue"].notna()
    assert sampled.any()
    assert (table.loc[sampled, "detectable"] > 0).all()
