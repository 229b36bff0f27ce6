"""What an estimator is, and what it may offer beside being called; nothing else in gradeval asks for attributes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from gradeval.errors import TooLong, estimator_error
from gradeval.progress import Advance

if TYPE_CHECKING:
    from gradeval.model.problem import Problem

Estimator = Callable[..., Any]
"""(network, inputs, loss, randomness) -> Tensor[..., points]."""


class Learner(Protocol):
    """An estimator that learns something on a problem before it is evaluated; then it is frozen.

    Attributes:
        budget: the number of steps of `fit`.
    """

    budget: int

    def __call__(self, *arguments: Any) -> Any:
        """Draw once, as every estimator does.

        Args:
            arguments: network, inputs, loss and randomness.

        Returns:
            One surrogate per point, [..., points].
        """

    def fit(self, problem: Problem, seed: int, advance: Advance | None = None) -> Estimator:
        """Learn what the estimator needs.

        Args:
            problem: what to fit to.
            seed: of all chance in the fit.
            advance: a callback for progress; it is given the number of steps done since its last call.

        Returns:
            An estimator with what was learned; this one stays as it is.
        """

    @property
    def learned(self) -> dict[str, Any]:
        """What was learned, for the report."""


def learns(estimator: Estimator) -> TypeGuard[Learner]:
    """Whether an estimator must be fitted to a problem first.

    Args:
        estimator: any.

    Returns:
        True where it has a method ``fit``.
    """
    return callable(getattr(estimator, "fit", None))


@dataclass(frozen=True)
class Fit:
    """An estimator that is ready to be evaluated.

    Attributes:
        estimator: the fitted one.
        learned: what it has learned, for the report; empty where it learns nothing.
    """

    estimator: Estimator
    learned: dict[str, Any]


def fit(estimator: Estimator, name: str, problem: Problem, *seeds: object, advance: Advance | None = None) -> Fit:
    """Fit an estimator to a problem, where it is a `Learner`; any other stays as it is.

    Args:
        estimator: any.
        name: its name; the seed of the fit follows from it, from ``seeds`` and from the problem.
        problem: what it is fitted to.
        seeds: what else the seed of the fit follows from.
        advance: a callback for progress; it is given the number of steps done since its last call.

    Returns:
        The estimator to be evaluated, and what it has learned.

    Raises:
        GradevalError: the fit fails.
    """
    if not learns(estimator):
        return Fit(estimator, {})
    from gradeval.isolation import alone
    from gradeval.model.problem import own_copy
    from gradeval.model.randomness import derived_seed

    seed = derived_seed(*seeds, problem.fingerprint(), name, "fit")
    try:
        with alone(seed):
            fitted: Any = estimator.fit(own_copy(problem), seed, advance)  # a copy, for it may write to it
            return Fit(fitted, fitted.learned)
    except TooLong:  # said by what is told of the progress
        raise
    except Exception as error:
        raise estimator_error(name, error) from error


def copied(estimator: Estimator) -> Estimator:
    """A copy of an estimator, so that a state which it keeps stays as it is.

    Args:
        estimator: any.

    Returns:
        The copy; the estimator itself, where it cannot be copied.
    """
    try:
        return deepcopy(estimator)
    except Exception:
        return estimator


def owns_sampling(estimator: Estimator) -> bool:
    """Whether an estimator samples by itself, so that it cannot be vectorised.

    Args:
        estimator: any.

    Returns:
        True where it has an attribute ``owns_sampling`` that is true.
    """
    return bool(getattr(_code(estimator), "owns_sampling", False))


def samples_of(estimator: Estimator) -> int:
    """The number K of samples that one draw of an estimator takes.

    Args:
        estimator: any.

    Returns:
        Its attribute ``samples``; 0 where it has none.
    """
    samples = getattr(estimator, "samples", 0)
    return samples if isinstance(samples, int) else 0


def repeats_of(estimator: Estimator) -> int:
    """The number of independent draws whose mean one draw of an estimator is.

    Args:
        estimator: any.

    Returns:
        Its attribute ``repeats`` where it owns its sampling; else 1.
    """
    return int(getattr(estimator, "repeats", 1)) if owns_sampling(estimator) else 1


def claim_of(estimator: Estimator) -> bool:
    """Whether a user's own estimator claims to be unbiased.

    Args:
        estimator: any.

    Returns:
        True where it has an attribute ``unbiased`` that is true.
    """
    return bool(getattr(_code(estimator), "unbiased", False))


def settings_of(estimator: Estimator, names: Iterable[str]) -> dict[str, Any]:
    """The values that an estimator's hyper-parameters have.

    Args:
        estimator: any.
        names: of the hyper-parameters.

    Returns:
        Each value by its name, in the order of ``names``; what it does not keep as an attribute is left out.
    """
    kept = estimator.keywords if isinstance(estimator, functools.partial) else {}
    return {
        name: kept[name] if name in kept else getattr(estimator, name)
        for name in names
        if name in kept or hasattr(estimator, name)
    }


def parameters_of(written: Callable[..., Any]) -> dict[str, Any]:
    """The hyper-parameters that a user's own estimator, or its class, can be given.

    Args:
        written: a class (or an object of it), whose hyper-parameters are the parameters of its construction; or a
            function, whose are those beyond the first four.

    Returns:
        The default by the name; `inspect.Parameter.empty` where there is none.

    Examples:
        >>> def mine(network, inputs, loss, randomness, temperature=1.0): ...
        >>> parameters_of(mine)
        {'temperature': 1.0}
    """
    code = _code(written)
    function = inspect.isroutine(code)
    described = code if function or isinstance(code, type) else type(code)
    try:
        parameters = list(inspect.signature(described).parameters.values())
    except (ValueError, TypeError):  # written in C
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default for p in (parameters[4:] if function else parameters) if p.kind in kinds}


def _code(estimator: Any) -> Any:
    """What a `functools.partial` calls; else the estimator itself."""
    return estimator.func if isinstance(estimator, functools.partial) else estimator


def definition_of(estimator: Estimator) -> str:
    """Where a user's own estimator is defined.

    Args:
        estimator: a function, or an object with ``__call__``.

    Returns:
        "module:name" of the function, or of the object's class.
    """
    code = _code(estimator)
    cls = type(code)
    name = getattr(code, "__qualname__", cls.__qualname__)
    return f"{getattr(code, '__module__', cls.__module__)}:{name}"
