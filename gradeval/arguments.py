"""What people give as arguments: whole and real numbers, widths, pairs. What cannot be meant is refused in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from gradeval.errors import GradevalError
from gradeval.notebook import Bars
from gradeval.progress import Progress, Silent

MOST_SHOWN = 60  # characters of a value in a message


def shown(value: object) -> str:
    """A value as it stands in a message: on one line, and not too long.

    Args:
        value: any.

    Returns:
        Its repr; of what is long, or has an address, its type.

    Examples:
        >>> shown("20"), shown(object())
        ("'20'", 'something of the type object')
    """
    text = " ".join(repr(value).split())
    kind = value if isinstance(value, type) else type(value)
    return text if len(text) <= MOST_SHOWN and " at 0x" not in text else f"something of the type {kind.__qualname__}"


def real(name: str, value: Any) -> float:
    """A number.

    Args:
        name: of the argument.
        value: what was given; numbers of numpy, and tensors of one number, are numbers.

    Returns:
        It as a float.

    Raises:
        GradevalError: it is a text, a truth value, NaN or no number at all.

    Examples:
        >>> real("seconds", 2)
        2.0
    """
    number = _number(value)
    if number is None or math.isnan(number):
        raise GradevalError(f"{name} must be a number, found {shown(value)}.")
    return float(number)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, which may be written as a float.

    Args:
        name: of the argument.
        value: what was given.
        least: that it may be.

    Returns:
        It as an int.

    Raises:
        GradevalError: it is no whole number, or too small.

    Examples:
        >>> whole("draws", 1e3)
        1000
    """
    number = _number(value)
    if number is None or not math.isfinite(number) or number != int(number):
        raise GradevalError(f"{name} must be a whole number, found {shown(value)}.")
    if least is not None and number < least:
        raise GradevalError(f"{name} must be at least {least}, found {int(number)}.")
    return int(number)


def _number(value: Any) -> Any:
    """A number of Python; None where it is none."""
    if getattr(value, "shape", None) == ():
        value = value.item()
    return None if isinstance(value, bool) or not isinstance(value, Real) else value


def several(name: str, values: Any) -> list[Any]:
    """The values of an argument of which several may be given.

    Args:
        name: of the argument.
        values: a list, a tuple, an array or one value alone. A text is refused: its letters are not meant.

    Returns:
        The values.

    Raises:
        GradevalError: it is a text, or neither a number nor a list of something.

    Examples:
        >>> several("rates", 0.1), several("rates", (0.1, 0.3))
        ([0.1], [0.1, 0.3])
    """
    if _number(values) is not None:
        return [values]
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise GradevalError(f"{name} must be a list of numbers, found {shown(values)}.")
    return list(values)


def widths_text(name: str, value: Any) -> str:
    """Widths of layers as the text that names them.

    Args:
        name: of the argument.
        value: "5-5-5", (5, 5, 5), [5, "8c"], an array, or 5 for a single layer.

    Returns:
        The text, "5-5-5"; what it says is not checked.

    Raises:
        GradevalError: it is none of these.

    Examples:
        >>> widths_text("units", (3, 3)), widths_text("units", 3), widths_text("units", "3-3")
        ('3-3', '3', '3-3')
    """
    if isinstance(value, str):
        return value
    try:
        return "-".join(one if isinstance(one, str) else str(whole(name, one)) for one in several(name, value))
    except GradevalError:
        message = f"{name} must be widths, such as '5-5-5', (5, 5, 5) or 5; found {shown(value)}."
        raise GradevalError(message) from None


def widths_of(name: str, value: Any) -> list[int]:
    """Widths of layers of units.

    Args:
        name: of the argument.
        value: as of `widths_text`.

    Returns:
        The numbers.

    Raises:
        GradevalError: it is something else, or a width is below 1.

    Examples:
        >>> widths_of("units", "200-100")
        [200, 100]
    """
    text = widths_text(name, value)
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", text):
        raise GradevalError(
            f"{name} must be widths joined by '-', such as 5-5-5, and every width must be at least 1; found '{text}'."
        )
    return [int(width) for width in text.split("-")]


def states_pair(states: Any) -> tuple[float, float]:
    """The two values of a unit.

    Args:
        states: (lo, hi), also as a list or an array.

    Returns:
        lo and hi.

    Raises:
        GradevalError: not two finite numbers with lo < hi.

    Examples:
        >>> states_pair([-1, 1])
        (-1.0, 1.0)
    """
    try:
        lo, hi = (real("a state", value) for value in several("states", states))
    except (GradevalError, ValueError):
        raise GradevalError(f"states must be two numbers (lo, hi), found {shown(states)}.") from None
    if not lo < hi or math.isinf(hi - lo):
        raise GradevalError(f"states must be [lo, hi] with lo < hi, found [{lo}, {hi}].")
    return lo, hi


def folder_path(value: Any, name: str = "folder") -> Path:
    """The path of a folder or a file.

    Args:
        value: a text or a path.
        name: of the argument.

    Returns:
        The path.

    Raises:
        GradevalError: it is neither.
    """
    try:
        return Path(value)
    except TypeError:
        raise GradevalError(f"{name} must be a path, found {shown(value)}.") from None


def workers_of(workers: Any) -> int:
    """How many work at once.

    Args:
        workers: as given; None for as many as torch has threads.

    Returns:
        At least 1.
    """
    if workers is None:
        import torch

        return torch.get_num_threads()
    return whole("workers", workers, least=1)


def listener(progress: Any) -> Progress:
    """What is told of the progress of long work.

    Args:
        progress: as given; None for nothing, True for bars in a notebook or a terminal.

    Returns:
        It.

    Raises:
        GradevalError: it has not the methods of a `Progress`.
    """
    if progress is None or progress is False:
        return Silent()
    if progress is True:
        return Bars()
    if not isinstance(progress, Progress):
        raise GradevalError(
            f"progress must be True or an object with start, advance and finish (gradeval.progress.Progress), found "
            f"{shown(progress)}."
        )
    return progress
