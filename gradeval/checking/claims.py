"""What is claimed of an estimator, and the three-valued verdicts on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gradeval.checking.findings import Finding
from gradeval.checking.limits import EQUAL, check_range


class State(StrEnum):
    """What is known about a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"

    @classmethod
    def of(cls, fails: bool, holds: bool) -> State:
        """The state of a claim of which two things are known; FAILS comes before HOLDS.

        Args:
            fails: whether the claim is refuted.
            holds: whether it is shown to hold.

        Returns:
            UNDECIDED where it is neither.
        """
        return cls.FAILS if fails else cls.HOLDS if holds else cls.UNDECIDED


class RowState(StrEnum):
    """What a row of the table says: of its layer, or of the problem's value where the layer is no worse."""

    HOLDS = "holds"
    FAILS = "fails"
    VALUE_FAILS = "fails: value"
    VARIANCE_FAILS = "fails: variance"
    UNDECIDED = "undecided"
    LIMITED = "not refuted"
    """At the edge of what is usual, where an estimator is sampled, and less was found out than was claimed."""
    UNJUDGED = ""

    @property
    def fails(self) -> bool:
        """Whether the row speaks against the estimator."""
        return self in (RowState.FAILS, RowState.VALUE_FAILS, RowState.VARIANCE_FAILS)


def worst(states: Iterable[State]) -> State:
    """The state of several claims together.

    Args:
        states: any number of them.

    Returns:
        FAILS where one of them fails, else UNDECIDED where one is undecided; HOLDS where all hold, or there are none.

    Examples:
        >>> worst([State.HOLDS, State.UNDECIDED])
        <State.UNDECIDED: 'undecided'>
    """
    found = set(states)
    return next((state for state in (State.FAILS, State.UNDECIDED) if state in found), State.HOLDS)


@dataclass(frozen=True)
class Claims:
    """What is to be checked in every layer of every problem; None: not claimed.

    Args:
        unbiased: E[g] = ∇J and E[value] = J.
        max_relative_bias: a bound for ‖E g − g*‖/‖g*‖.
        min_cosine: a bound for the cosine between E[g] and g*.
        max_relative_variance: a bound for tr Cov(g)/‖g*‖² of one draw.

    Raises:
        GradevalError: a bound out of its range.
    """

    unbiased: bool
    max_relative_bias: float | None = None
    min_cosine: float | None = None
    max_relative_variance: float | None = None

    def __post_init__(self) -> None:
        check_range("max_relative_bias", self.max_relative_bias, 0.0, math.inf)
        check_range("min_cosine", self.min_cosine, -1.0, 1.0)
        check_range("max_relative_variance", self.max_relative_variance, 0.0, math.inf)

    def words(self) -> list[str]:
        """The claims in words, one phrase each.

        Returns:
            The phrases; none where nothing is claimed.

        Examples:
            >>> Claims(True, min_cosine=0.9).words()
            ['unbiased', 'cosine of the mean ≥ 0.9']
        """
        phrases = ["unbiased"] if self.unbiased else []
        for value, phrase in (
            (self.max_relative_bias, "relative bias ≤ {:g}"),
            (self.min_cosine, "cosine of the mean ≥ {:g}"),
            (self.max_relative_variance, "relative variance of a draw ≤ {:g}"),
        ):
            if value is not None:
                phrases.append(phrase.format(value))
        return phrases

    def judge(self, finding: Finding, detect: float) -> dict[str, State]:
        """The state of every claim in one layer.

        Args:
            finding: what is known of the layer.
            detect: the relative bias that must have been found for "unbiased" to hold.

        Returns:
            The states by the claim's name.
        """
        states = {}
        if self.unbiased:
            states["unbiased"] = State.of(finding.unequal, finding.detectable <= detect)
        if (bound := self.max_relative_bias) is not None:
            _, low, high = finding.relative_bias
            states["max_relative_bias"] = State.of(low > bound + EQUAL, high <= bound + EQUAL)
        if (bound := self.min_cosine) is not None:
            _, low, high = finding.cosine
            states["min_cosine"] = State.of(high < bound - EQUAL, low >= bound - EQUAL)
        if (bound := self.max_relative_variance) is not None:
            low, high = finding.variance_low, finding.variance_high
            states["max_relative_variance"] = State.of(low > bound * (1 + EQUAL), high <= bound * (1 + EQUAL))
        return states
