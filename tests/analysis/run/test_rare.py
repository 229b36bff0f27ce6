"""What draws may have missed: the largest gradients that are together too rare to be seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradeval.analysis.run.rare import RareStates


def rare(*cells: tuple[float, float, float], usual: float = 0.0) -> RareStates:
    """One layer, two points; (probability of a state, expected number of points per draw, size), the largest first."""
    sums = np.array([(0, least, rate, rate * x, rate * x**2) for least, rate, x in cells])
    return RareStates(["1"], 2, sums, np.array([usual]))


def test_the_largest_gradients_are_missing_up_to_the_rate_that_may_go_unseen() -> None:
    """At level e⁻⁴ events of an expected 4 in 1000 draws may go unseen: 1e-3 of the rarest, 3e-3 of the next."""
    states = rare((1e-3, 1e-3, 50.0), (0.0, 0.1, 2.0), (0.0, 1.9, 0.1))
    bias, square, share = states.unseen("1", 1000, math.exp(-4))
    assert share == pytest.approx(4e-3)
    assert bias == pytest.approx((1e-3 * 50 + 3e-3 * 2) / 2)
    assert square == pytest.approx((1e-3 * 50**2 + 3e-3 * 2**2) / 4)


def test_less_is_missing_in_more_draws_and_at_a_larger_level() -> None:
    states = rare((0.0, 1e-3, 50.0), (0.0, 0.1, 2.0))
    found = [states.unseen("1", draws, 1e-3)[0] for draws in (10, 100, 1000, 10_000, 10**7)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx((1e-3 * 50 + 0.1 * 2) / 2)  # everything
    assert found[-1] < 1e-4
    assert states.unseen("1", 1000, 0.1)[0] < states.unseen("1", 1000, 0.01)[0]


def test_a_state_that_is_seen_for_certain_is_not_missing() -> None:
    """Probability 0.1, in 1000 draws: it goes unseen once in 10⁴⁵ runs. No part of it may be missing."""
    states = rare((0.1, 0.2, 50.0), (0.0, 0.1, 2.0))
    assert states.unseen("1", 1000, math.exp(-4))[0] == pytest.approx(4e-3 * 2 / 2)
    assert states.unseen("1", 30, math.exp(-4))[0] == pytest.approx(4 / 30 * 50 / 2)


def test_what_stands_in_the_place_of_a_missing_state_counts() -> None:
    """A rare state without gradient: the mean is too large by its probability times the usual gradient."""
    assert rare((1e-3, 1e-3, 0.0), usual=5.0).unseen("1", 1000, math.exp(-4)) == (
        pytest.approx(1e-3 * 5 / 2),
        0.0,
        pytest.approx(1e-3),
    )
