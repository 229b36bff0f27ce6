"""From what people give for estimators (one or many; specs, objects or both) to estimators with names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gradeval.arguments import shown
from gradeval.errors import GradevalError
from gradeval.estimators.protocol import Estimator
from gradeval.estimators.specs import get_estimator, get_facts, made_of, spec_of, specs_of

Given = str | Estimator
Estimators = Given | Iterable[Given] | Mapping[str, Given]
"""A spec or several with commas between them, an estimator, a list of these, or a dictionary that names them."""


def resolve(estimators: Estimators) -> dict[str, Estimator]:
    """Specs and callables as estimators with the names that tables show.

    Args:
        estimators: specs with commas between them ("paper" and "all" among them), an estimator, a list of specs and
            estimators, or a dictionary of them by the names that they are to have.

    Returns:
        Each estimator by its name, in the order given.

    Raises:
        GradevalError: none given, what is no estimator, or two of the same name.

    Examples:
        >>> list(resolve(["st", "concrete:temperature=1"]))
        ['st', 'concrete:temperature=1.0']
        >>> list(resolve({"cold": "concrete:temperature=0.1", "hot": "concrete:temperature=1"}))
        ['cold', 'hot']
    """
    return resolve_with_specs(estimators)[0]


def resolve_with_specs(estimators: Estimators) -> tuple[dict[str, Estimator], dict[str, str]]:
    """As `resolve`, with the specs by which another process can make the estimators itself.

    Args:
        estimators: as of `resolve`.

    Returns:
        Each estimator by its name, and the spec of each that was given by one.

    Raises:
        GradevalError: as `resolve`.
    """
    resolved: dict[str, Estimator] = {}
    specs: dict[str, str] = {}
    for named, given in _each(estimators):
        estimator = _estimator(given)
        spec = given.strip() if isinstance(given, str) and not get_facts(estimator) else spec_of(estimator)
        name = named or spec
        if name in resolved:
            raise GradevalError(f"estimator '{name}' is given twice. A dictionary names them: {{'name': estimator}}.")
        resolved[name] = estimator
        if isinstance(given, str):
            specs[name] = spec
    if not resolved:
        raise GradevalError("no estimators given.")
    return resolved, specs


def resolve_one(estimator: Any) -> tuple[str, Estimator]:
    """An estimator, where only one is meant, with its name.

    Args:
        estimator: a spec, an estimator, or a dictionary that names it.

    Returns:
        Its name and itself.

    Raises:
        GradevalError: none, or several.
    """
    resolved = resolve(estimator)
    if len(resolved) > 1:
        raise GradevalError(f"one estimator is wanted here, found {len(resolved)}: {', '.join(resolved)}.")
    return next(iter(resolved.items()))


def _each(estimators: Any) -> Iterable[tuple[str, Any]]:
    """What is given, one by one, each with its name or an empty one."""
    if isinstance(estimators, Mapping):
        for name, given in estimators.items():
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise GradevalError(f"the names of estimators must be printable texts, found {shown(name)}.")
            specs = specs_of(given) if isinstance(given, str) else [given]
            if len(specs) != 1:
                raise GradevalError(f"'{name}' names one estimator, found {len(specs)} in '{given}'.")
            yield name, specs[0]
        return
    several = isinstance(estimators, Iterable) and not callable(estimators) and not isinstance(estimators, str)
    for given in estimators if several else [estimators]:
        yield from (("", spec) for spec in (specs_of(given) if isinstance(given, str) else [given]))


def _estimator(given: Any) -> Estimator:
    if isinstance(given, str):
        return get_estimator(given)
    if not callable(given):
        raise GradevalError(
            f"an estimator is a spec such as 'psa', a function or an object that can be called, found {shown(given)}."
        )
    return made_of(given, given.__qualname__) if isinstance(given, type) else given
