"""How long a check may take is told before the draws are made."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gradeval import Problem, check
from gradeval.errors import TooLong
from gradeval.progress import Silent


class Told(Silent):
    """Keeps what it was told to expect, and refuses what is beyond a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.seconds: list[float] = []

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.seconds.append(seconds["checking"])
        if self.seconds[-1] > self.limit:
            raise TooLong("too long")


@pytest.fixture(scope="module")
def problem(make_problem) -> Problem:
    return make_problem((3, 2), points=4)


def test_what_is_decided_exactly_takes_no_time(problem: Problem) -> None:
    progress = Told(0.0)
    assert check("reinforce", problems=[problem], max_draws=10**12, progress=progress).exit_code == 0
    assert set(progress.seconds) == {0.0}


def test_a_larger_number_of_draws_is_refused_before_any(problem: Problem) -> None:
    """Planted: the refusal taken for trouble of the estimator."""
    progress = Told(3600.0)
    with pytest.raises(TooLong):
        check("concrete", problems=[problem], max_relative_bias=2.0, max_draws=10**12, progress=progress)
    assert len(progress.seconds) == 1


def test_what_an_undecided_claim_will_take_follows_from_the_first_draws(problem: Problem) -> None:
    """A bias a twentieth as large takes far more draws, up to the most there may be. Planted: nothing is told."""

    def told(detect: float) -> float:
        progress = Told(0.0)
        with pytest.raises(TooLong):
            check("rebar", problems=[problem], detect=detect, progress=progress, workers=1)
        assert progress.seconds[0] == 0.0
        return progress.seconds[1]

    assert told(1e-3) > 5 * told(0.02)
