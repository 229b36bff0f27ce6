"""What is to be evaluated, checked before any work begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradeval.analysis.run.curves import MIN_BLOCKS
from gradeval.analysis.run.record import DETECT
from gradeval.arguments import real, whole
from gradeval.errors import GradevalError
from gradeval.estimators import Estimator
from gradeval.evaluation.curves import check_choice
from gradeval.evaluation.reference import check_kind, is_sampled
from gradeval.model.problem import Problem
from gradeval.reference import Precision
from gradeval.sampling.extent import WORKING_MEMORY, Extent


@dataclass(frozen=True)
class Request:
    """What is to be evaluated.

    Args:
        problem: network, data and loss.
        estimators: by name.
        specs: of a user's own estimators, by name: workers import them.
        draws: of each estimator.
        seed: every random number follows from it and the problem.
        exact: "auto", "always" or "never".
        arguments: kept in the manifest.
        detect: the relative bias that must have been detectable before a claim of no bias holds.
        memory: bytes that the statistics may take, see `Extent`.
        reference: "auto", "exact", "sampled", or the precision of a sampled one.

    Raises:
        GradevalError: too few draws, no memory, or an unknown choice.
    """

    problem: Problem
    estimators: dict[str, Estimator]
    specs: dict[str, str]
    draws: int
    seed: int
    exact: str
    arguments: dict[str, Any] = field(default_factory=dict)
    detect: float = DETECT
    memory: int = WORKING_MEMORY
    reference: str | Precision = "auto"

    def __post_init__(self) -> None:
        checked = {
            "draws": whole("draws", self.draws, least=MIN_BLOCKS),
            "seed": whole("seed", self.seed),
            "detect": real("detect", self.detect),
            "memory": int(real("working_memory", self.memory)),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        check_choice(self.exact)
        check_kind(self.reference)
        if is_sampled(self.reference) and self.exact == "always":
            raise GradevalError(
                "exact bias needs an exact gradient: with a sampled reference exact cannot be 'always'."
            )
        if not 0 < self.detect <= 1:
            raise GradevalError(f"detect must be above 0 and at most 1, found {self.detect}.")
        if not self.memory > 0:
            raise GradevalError(f"the working memory must be positive, found {self.memory}.")

    @property
    def extent(self) -> Extent:
        """How many draws a chunk has, and what is kept of them."""
        network = self.problem.network
        parameters = sum(p.numel() for p in network.trainable().values())
        return Extent.of(parameters, len(network.layer_slices()), self.memory)

    def spec(self, name: str) -> str | None:
        """The spec by which a worker imports an estimator itself.

        Args:
            name: of the estimator.

        Returns:
            The spec of a user's own; None for any other, which is sent to the worker.
        """
        return self.specs.get(name)
