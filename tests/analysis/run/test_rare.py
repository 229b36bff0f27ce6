"""What draws may have missed: the largest gradients that are together too rare to be seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradeval.analysis.run.rare import BINS, RareStates


def rare(*bins: tuple[int, float, float]) -> RareStates:
    """One layer, two points; (bin, expected number of points per draw, size)."""
    sums = np.zeros((1, BINS, 3))
    for place, rate, size in bins:
        sums[0, place] = rate, rate * size, rate * size**2
    return RareStates(["1"], 2, sums)


def test_the_largest_gradients_are_missing_up_to_the_rate_that_may_go_unseen() -> None:
    """At level e⁻⁴ events of an expected 4 in 1000 draws may go unseen: 1e-3 of the rarest, 3e-3 of the next."""
    states = rare((400, 1e-3, 50.0), (300, 0.1, 2.0), (200, 1.9, 0.1))
    bias, square = states.unseen("1", 1000, math.exp(-4))
    assert bias == pytest.approx((1e-3 * 50 + 3e-3 * 2) / 2)
    assert square == pytest.approx((1e-3 * 50**2 + 3e-3 * 2**2) / 4)


def test_less_is_missing_in_more_draws_and_at_a_larger_level() -> None:
    states = rare((400, 1e-3, 50.0), (300, 0.1, 2.0))
    found = [states.unseen("1", draws, 1e-3)[0] for draws in (10, 100, 1000, 10_000, 10**7)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx((1e-3 * 50 + 0.1 * 2) / 2)  # everything
    assert found[-1] < 1e-4
    assert states.unseen("1", 1000, 0.1)[0] < states.unseen("1", 1000, 0.01)[0]
