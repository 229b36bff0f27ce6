"""The table of registered problems and tasks (read without importing torch) and the look-up of a name or a file."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradeval.errors import GradevalError, unknown_name

if TYPE_CHECKING:
    from gradeval.model.problem import Problem
    from gradeval.problems.tasks import Task


@dataclass(frozen=True)
class ProblemFacts:
    """A registered problem: the function that makes it, what it is and where it comes from.

    ``task`` makes what is trained on; where ``target`` is empty, the problem is the task's training data with the
    network at its initial parameters.
    """

    name: str
    target: str
    task: str
    description: str
    source: str
    epochs: int = 2000  # of `gradeval train`, unless told otherwise
    batch: int = 10
    optimiser: str = "sgd"


PROBLEMS: dict[str, ProblemFacts] = {
    facts.name: facts
    for facts in (
        ProblemFacts(
            "expclass",
            "gradeval.expclass:expclass_problem",
            "gradeval.expclass:expclass_task",
            "2-D classification by a trained network of linear binary layers (--units, --stage)",
            "Shekhovtsov et al. 2020, arXiv:2006.03143, appendix C.1",
        ),
        ProblemFacts(
            "digits",
            "",
            "gradeval.problems.images:digits_task",
            "classification of images by a convolutional network (--units 24c-48c-96; 1c-2c can be enumerated)",
            "scikit-learn's 8×8 digits; MNIST, CIFAR-10 or a folder of images where they are on disk (--data, --root)",
            epochs=40,
            batch=32,
            optimiser="adam",
        ),
        ProblemFacts(
            "autoencoder",
            "",
            "gradeval.problems.images:autoencoder_task",
            "reconstruction of images through one to three layers of binary codes (--units 8-8)",
            "the same images",
            epochs=100,
            batch=32,
            optimiser="adam",
        ),
    )
}


def load_problem(name: str, **options: Any) -> Problem:
    """A registered problem by its name, with its options, or a problem file by its path.

    Raises:
        GradevalError: an unknown name (with near matches) or option, or an unusable file.
    """
    if name in PROBLEMS:
        facts = PROBLEMS[name]
        problem: Problem = _make(name, facts.target, options) if facts.target else load_task(name, **options).train
        return problem
    return _load_file(name, options)


def load_task(name: str, **options: Any) -> Task:
    """A registered task by its name, with its options, or a problem file by its path, as training data alone.

    Raises:
        GradevalError: an unknown name (with near matches) or option, or an unusable file.
    """
    if name in PROBLEMS:
        task: Task = _make(name, PROBLEMS[name].task, options)
        return task
    from gradeval.problems.tasks import Task

    return Task(_load_file(name, options))


def _make(name: str, target: str, options: dict[str, Any]) -> Any:
    module, _, attribute = target.partition(":")
    make = getattr(importlib.import_module(module), attribute)
    known = inspect.signature(make).parameters
    for option in options:
        if option not in known:
            raise unknown_name(f"option of problem '{name}'", option, known)
    return make(**options)


def _load_file(name: str, options: dict[str, Any]) -> Problem:
    if not Path(name).exists() and not name.endswith(".json"):
        raise GradevalError(f"{unknown_name('problem', name, PROBLEMS)} A problem file is given by its path.")
    if options:
        raise GradevalError(f"a problem file takes no options, found {', '.join(options)}.")
    from gradeval.model.problem import Problem

    return Problem.load(name)
