"""The measures have one definition for numbers, arrays, tensors and intervals, and no bit depends on which it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradeval.analysis import measures
from gradeval.analysis.statistics import Interval


def test_a_tensor_and_a_number_have_the_same_measures() -> None:
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        bias, variance, norm = torch.rand(3, generator=random, dtype=torch.float64)
        for function, arguments in (
            (measures.relative, (bias, norm)),
            (measures.relative_variance, (variance, norm)),
            (measures.mean_square, (bias, variance, 7)),
            (measures.cosine, (bias, norm)),
            (measures.scale, (bias, norm)),
        ):
            numbers = [float(a) for a in arguments]
            arrays = [np.array([float(a)]) for a in arguments]
            assert float(function(*arguments)) == function(*numbers) == function(*arrays)[0]


def test_an_interval_is_scaled_at_both_ends() -> None:
    interval = Interval(4.0, 2.0, 8.0)
    assert measures.relative(interval, 2.0) == Interval(2.0, 1.0, 4.0)
    assert measures.relative_variance(interval, 2.0) == Interval(1.0, 0.5, 2.0)


def test_the_estimate_of_a_bias_is_right_on_average_and_never_negative() -> None:
    """‖b̂‖² exceeds ‖b‖² by tr Σ/n; planted: the sign of the correction. 4000 runs, to 5 standard errors."""
    random, truth, n = np.random.default_rng(0), 3.0, 50
    draws = random.normal(size=(4000, n)) + truth
    squares, chance = draws.mean(1) ** 2, draws.var(1, ddof=1) / n
    found = np.array([measures.bias_size(*pair) ** 2 for pair in zip(squares, chance, strict=True)])
    assert found.mean() == pytest.approx(truth**2, abs=5 * found.std() / 4000**0.5)
    assert measures.bias_size(0.1, 0.2) == 0
