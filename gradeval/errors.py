"""The one error that gradeval raises for input it cannot use, and the look-up that names near matches."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GradevalError(Exception):
    """Unusable input: the message says what was wrong, what was found and what to do."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> GradevalError:
    """The error for a ``name`` that is not among the ``known`` ones, with the nearest of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    return GradevalError(f"unknown {kind} '{name}': {hint}")
