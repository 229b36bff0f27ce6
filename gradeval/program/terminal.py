"""What is printed of names, notes and errors, which may be a stranger's: a terminal shows it and does not obey it."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

_OBEYED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of control characters, of marks that turn the direction of a text, and of no characters."""


def visible(text: str) -> str:
    """A text without anything that a terminal would obey.

    Args:
        text: any.

    Returns:
        The text with an escape such as \\x1b in place of every control character.

    Examples:
        >>> visible("st\\x1b[2J")
        'st\\\\x1b[2J'
        >>> visible("relative bias ≤ 5 %")
        'relative bias ≤ 5 %'
    """
    if text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in _OBEYED else c for c in text)


def safe(text: str) -> str:
    """A text for rich: what it holds is shown, neither obeyed by the terminal nor taken for markup.

    Args:
        text: any.

    Returns:
        The text, escaped.

    Examples:
        >>> safe("mine[1]\\x07")
        'mine[1]\\\\x07'
    """
    from rich.markup import escape

    return escape(visible(text))


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line.

    Args:
        text: of one line; a line break in it is shown as \\n.
        file: standard output if not given.
    """
    print(visible(text), file=file or sys.stdout, flush=True)
