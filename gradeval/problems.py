"""The table of registered problems (read without importing torch) and the look-up of a name or a file."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradeval.errors import GradevalError, unknown_name

if TYPE_CHECKING:
    from gradeval.problem import Problem


@dataclass(frozen=True)
class ProblemFacts:
    """A registered problem: the function that makes it, what it is and where it comes from."""

    name: str
    target: str
    description: str
    source: str


PROBLEMS: dict[str, ProblemFacts] = {
    facts.name: facts
    for facts in (
        ProblemFacts(
            "expclass",
            "gradeval.expclass:expclass_problem",
            "2-D classification by a trained network of linear binary layers (--units, --stage)",
            "Shekhovtsov et al. 2020, arXiv:2006.03143, appendix C.1",
        ),
    )
}


def load_problem(name: str, **options: Any) -> Problem:
    """A registered problem by its name, with its options, or a problem file by its path.

    Raises:
        GradevalError: an unknown name (with near matches) or option, or an unusable file.
    """
    if name in PROBLEMS:
        module, _, attribute = PROBLEMS[name].target.partition(":")
        make = getattr(importlib.import_module(module), attribute)
        known = inspect.signature(make).parameters
        for option in options:
            if option not in known:
                raise unknown_name(f"option of problem '{name}'", option, known)
        problem: Problem = make(**options)
        return problem
    if not Path(name).exists() and not name.endswith(".json"):
        raise GradevalError(f"{unknown_name('problem', name, PROBLEMS)} A problem file is given by its path.")
    if options:
        raise GradevalError(f"a problem file takes no options, found {', '.join(options)}.")
    from gradeval.problem import Problem

    return Problem.load(name)
