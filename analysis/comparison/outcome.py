"""The words of a comparison: what is compared, and what came of it. Their texts are those of its table."""

from __future__ import annotations

from enum import StrEnum


class Measure(StrEnum):
    """What a row of a comparison is about."""

    BIAS = "bias"
    VARIANCE = "variance"
    COSINE = "cosine"
    TIME = "time"
    EVALUATIONS = "evaluations"
    PRESENCE = ""  # an estimator that only one of the runs has

    @property
    def is_ratio(self) -> bool:
        """Whether a change is new/old − 1."""
        return self in (Measure.VARIANCE, Measure.TIME, Measure.EVALUATIONS)


class Outcome(StrEnum):
    """What a row of a comparison says.

    Examples:
        >>> [outcome.value for outcome in Outcome if outcome.is_regression]
        ['worse', 'missing']
    """

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    MISSING = "missing"
    ADDED = "added"

    @property
    def is_regression(self) -> bool:
        """Whether a gate in CI should fail."""
        return self in (Outcome.WORSE, Outcome.MISSING)
