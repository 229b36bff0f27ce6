"""What is to be evaluated, checked before any work begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradeval.analysis.run.curves import MIN_BLOCKS
from gradeval.analysis.run.record import DETECT
from gradeval.errors import GradevalError
from gradeval.estimators import Estimator
from gradeval.evaluation.curves import check_choice
from gradeval.evaluation.plan import MAX_PARAMETERS
from gradeval.model.problem import Problem


@dataclass(frozen=True)
class Request:
    """What is to be evaluated.

    Args:
        problem: network, data and loss.
        estimators: by name.
        own: the names that are specs of a user's own estimator.
        draws: of each estimator.
        seed: every random number follows from it and the problem.
        exact: "auto", "always" or "never".
        arguments: kept in the manifest.
        detect: the relative bias that must have been detectable before a claim of no bias holds.

    Raises:
        GradevalError: too few draws, too many parameters, or an unknown choice.
    """

    problem: Problem
    estimators: dict[str, Estimator]
    own: set[str]
    draws: int
    seed: int
    exact: str
    arguments: dict[str, Any] = field(default_factory=dict)
    detect: float = DETECT

    def __post_init__(self) -> None:
        if self.draws < MIN_BLOCKS:
            raise GradevalError(f"draws must be at least {MIN_BLOCKS}, found {self.draws}.")
        check_choice(self.exact)
        if not 0 < self.detect <= 1:
            raise GradevalError(f"detect must be above 0 and at most 1, found {self.detect}.")
        parameters = sum(p.numel() for p in self.problem.network.trainable().values())
        if parameters > MAX_PARAMETERS:
            raise GradevalError(f"the network has {parameters} parameters; evaluation takes at most {MAX_PARAMETERS}.")

    def spec(self, name: str) -> str | None:
        """The spec by which a worker imports an estimator itself.

        Args:
            name: of the estimator.

        Returns:
            The spec of a user's own; None for any other, which is sent to the worker.
        """
        return name if name in self.own else None
