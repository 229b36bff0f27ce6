"""What an estimator is, and what it may offer beside being called; nothing else in gradeval asks for attributes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from gradeval.progress import Advance

if TYPE_CHECKING:
    from gradeval.model.problem import Problem

Estimator = Callable[..., Any]
"""(network, inputs, loss, randomness) -> Tensor[..., points]."""


class Learner(Protocol):
    """An estimator that learns something on a problem before it is evaluated, and is frozen then.

    Attributes:
        budget: steps of `fit`, as it tells them to ``advance``.
    """

    budget: int

    def fit(self, problem: Problem, seed: int, advance: Advance | None = None) -> Estimator:
        """The estimator with what it has learned."""

    @property
    def learned(self) -> dict[str, Any]:
        """What was learned, for the report."""


def learns(estimator: Estimator) -> TypeGuard[Learner]:
    """Whether an estimator has to be fitted to a problem first."""
    return callable(getattr(estimator, "fit", None))


@dataclass(frozen=True)
class Fit:
    """An estimator that is ready to be evaluated, and what it has learned for that; empty where it learns nothing."""

    estimator: Estimator
    learned: dict[str, Any]


def fit(estimator: Estimator, name: str, problem: Problem, *seeds: object, advance: Advance | None = None) -> Fit:
    """The estimator fitted to a problem, where it is a `Learner`; else as it is.

    Args:
        estimator: any.
        name: its name.
        problem: what it is fitted to.
        seeds: what its chance follows from, beside the problem and the name.
        advance: told its steps.
    """
    if not learns(estimator):
        return Fit(estimator, {})
    from gradeval.model.randomness import derived_seed

    fitted: Any = estimator.fit(problem, derived_seed(*seeds, problem.fingerprint(), name, "fit"), advance)
    return Fit(fitted, fitted.learned)


def owns_sampling(estimator: Estimator) -> bool:
    """Whether it samples by itself, so that it cannot be vectorised."""
    return bool(getattr(estimator, "owns_sampling", False))


def samples_of(estimator: Estimator) -> int:
    """K, the number of samples of one draw; 0 where it has no such number."""
    samples = getattr(estimator, "samples", 0)
    return samples if isinstance(samples, int) else 0


def claim_of(estimator: Estimator) -> bool:
    """Whether a user's own estimator claims to be unbiased, by an attribute ``unbiased``."""
    return bool(getattr(estimator, "unbiased", False))
