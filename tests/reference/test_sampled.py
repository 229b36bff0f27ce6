"""The sampled reference: its mean, the error it states, and that it says where it fell short."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest

from gradeval import GradevalError, exact_gradient, load_problem
from gradeval.estimators import get_estimator
from gradeval.progress import Silent
from gradeval.reference import Precision, sampled_gradient

CANDIDATES = {name: get_estimator(name) for name in ("ram", "disarm", "rloo:samples=4", "leg")}


@pytest.fixture(scope="module")
def problem():
    return load_problem("expclass", units="3-3", stage=0, points=10)


@pytest.mark.parametrize("memory", [2**30, 2**13])  # with a covariance, and with means of blocks
def test_error_is_what_it_says(problem, memory: int) -> None:
    """The squared error over its stated expectation is 1 on average: 14 references, ±4 standard errors."""
    exact, shares = exact_gradient(problem), []
    for seed in range(14):
        found = sampled_gradient(
            problem, {"rloo": get_estimator("rloo")}, limits=Precision(0.2, 60.0, memory), seed=seed
        )
        assert found.sampled is not None
        assert (found.sampled.covariance is None) == (memory == 2**13)
        errors = [float((found.by_layer()[k] - g).norm()) for k, g in exact.by_layer().items()]
        shares.append([e**2 / found.error[k] ** 2 for e, k in zip(errors, found.error, strict=True)])
    mean, error = np.mean(shares, 0), np.std(shares, 0, ddof=1) / math.sqrt(len(shares))
    assert (np.abs(mean - 1) < 4 * error).all(), (mean, error)


def test_both_ways_agree(problem) -> None:
    """What is told by means of blocks is what the covariance tells."""
    one = {"ram": get_estimator("ram")}
    whole, blocks = (
        sampled_gradient(problem, one, limits=Precision(0.03, 60.0, memory)) for memory in (2**30, 2**16 - 1)
    )
    assert whole.sampled
    assert blocks.sampled
    numbers = whole.sampled.numbers * whole.sampled.draws, blocks.sampled.numbers * blocks.sampled.draws
    np.testing.assert_allclose(numbers[0][:, 0], numbers[1][:, 0], rtol=0.2)
    np.testing.assert_allclose(numbers[0][:, 2], numbers[1][:, 2], rtol=1.0)


def test_the_seed_makes_the_draws_and_the_pilot_chooses(problem) -> None:
    runs = [sampled_gradient(problem, {"ram": get_estimator("ram")}, limits=Precision(0.1), seed=s) for s in (1, 1, 2)]
    assert (runs[0].vector == runs[1].vector).all()
    assert (runs[0].vector != runs[2].vector).any()
    chosen = sampled_gradient(problem, CANDIDATES, limits=Precision(0.1)).sampled
    assert chosen is not None
    assert chosen.estimator in CANDIDATES


def test_target_that_is_not_reached_is_told(problem) -> None:
    found = sampled_gradient(problem, {"rloo": get_estimator("rloo")}, limits=Precision(1e-5, 0.01)).sampled
    assert found is not None
    assert found.draws >= 512
    assert found.relative_error("all") > 1e-5


def test_progress_does_not_run_ahead(problem) -> None:
    """Planted: 99 % once the first draws are made, for all the minutes that were still to come."""

    class Told(Silent):
        shown: ClassVar[list[int]] = []

        def advance(self, task: str, steps: int) -> None:
            self.shown.append(steps)

    limits = Precision(target=1e-9, seconds=1.0)
    sampled_gradient(problem, {"ram": get_estimator("ram")}, limits=limits, progress=Told())
    assert Told.shown[0] < 60 < sum(Told.shown) <= 99


def test_refuses_what_is_no_candidate(problem) -> None:
    with pytest.raises(GradevalError, match="there are no candidates"):
        sampled_gradient(problem, {})
    with pytest.raises(GradevalError, match="target of a sampled reference must be positive"):
        Precision(target=0.0)
