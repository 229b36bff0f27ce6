"""The errors that gradeval raises, and how their sentences are made: what was wrong, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any


class GradevalError(Exception):
    """Unusable input: the message says what was wrong, what was found and what to do."""

    exit_code = 2


class Incomplete(GradevalError):
    """Work that stopped before its end, because a part of it failed or was interrupted; what had finished is kept.

    Args:
        message: what stopped it, what is kept and how to resume.
        exit_code: of the program: 1 where a part failed, 130 after Ctrl-C.
        evaluation: of `evaluate`: the `Evaluation` of the estimators that had finished; None where none had.
    """

    def __init__(self, message: str, *, exit_code: int, evaluation: Any = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.evaluation = evaluation


class TooLong(GradevalError):
    """Work that is predicted to take longer than the user allowed. It stops everything: no part of it is skipped."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> GradevalError:
    """The error for a name that is not among the known ones.

    Args:
        kind: what it names.
        name: the unknown one; what is no text is shown as it is written.
        known: the known ones.

    Returns:
        An error that names the nearest known ones, or all of them where none is near.

    Examples:
        >>> print(unknown_name("loss", "square", ["logistic", "squared"]))
        unknown loss 'square': did you mean squared?
    """
    known, name = sorted(known), name if isinstance(name, str) else repr(name)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    return GradevalError(f"unknown {kind} '{name}': {hint}")


def check_options(function: Callable[..., object], given: Iterable[str], known: type) -> None:
    """Refuse a keyword argument that a function does not know.

    Args:
        function: that was called; the arguments that it names are known, too.
        given: the names of the keyword arguments it was given.
        known: the TypedDict of those it knows.

    Raises:
        GradevalError: it does not know one of them; the message names near matches.
    """
    for name in given:
        if name not in known.__annotations__:
            named = [key for key, p in signature(function).parameters.items() if p.kind is not Parameter.VAR_KEYWORD]
            raise unknown_name(f"option of {function.__name__}", name, [*named, *known.__annotations__])


def estimator_error(name: str, error: BaseException) -> GradevalError:
    """What an estimator did wrong, as a sentence about it.

    Args:
        name: of the estimator.
        error: what was raised while it ran. The message of a `GradevalError` lacks its subject ("must return …").

    Returns:
        The error with its subject; an error of another type is named by it.

    Examples:
        >>> print(estimator_error("mine", ZeroDivisionError("division by zero")))
        estimator 'mine' raised ZeroDivisionError: division by zero
    """
    what = str(error) if isinstance(error, GradevalError) else f"raised {type(error).__name__}: {error}"
    return GradevalError(f"estimator '{name}' {what}")


def enumeration(names: Iterable[str]) -> str:
    """Names as they stand in a sentence.

    Args:
        names: at least one.

    Returns:
        Them with commas and an "and".

    Examples:
        >>> enumeration(["psa", "st", "arm"])
        'psa, st and arm'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
