"""What people give where a problem, a task or an estimator is meant: itself, its name, or the path of its file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradeval.arguments import shown
from gradeval.errors import GradevalError
from gradeval.estimators import Estimator, resolve_one
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.problems.catalogue import load_problem, load_task
from gradeval.problems.tasks import Task

GivenProblem = Problem | Task | str | Path
"""A problem, a task (of which the training data are meant), a registered name, or the path of a problem file."""


def given_problem(problem: Any) -> Problem:
    """The problem that is meant.

    Args:
        problem: itself, a task, a name (`gradeval list`), or the path of a problem file.

    Returns:
        The problem.

    Raises:
        GradevalError: an unknown name, an unusable file, or something else altogether.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units=2, stage=0)
        >>> given_problem(problem) is problem
        True
    """
    if isinstance(problem, Problem):
        return problem
    if isinstance(problem, Task):
        return problem.train
    if isinstance(problem, str | Path):
        return load_problem(problem)
    hint = ": a problem also has data and a loss, gradeval.Problem(network, inputs, targets, loss)"
    raise GradevalError(
        "a problem is a gradeval.Problem, a name such as 'expclass' or the path of a problem file, found "
        f"{shown(problem) if not isinstance(problem, StochasticBinaryNetwork) else 'a network' + hint}."
    )


def given_problems(problems: GivenProblem | Iterable[GivenProblem]) -> list[Problem]:
    """The problems that are meant.

    Args:
        problems: one, or a list of them, as of `given_problem`.

    Returns:
        The problems.
    """
    one: Any = problems
    alone = isinstance(one, str | Path) or not isinstance(one, Iterable)
    return [given_problem(problem) for problem in ([one] if alone else one)]


def given_task(task: GivenProblem) -> Task:
    """The task that is meant.

    Args:
        task: itself, a problem (training data alone), a name, or the path of a problem file.

    Returns:
        The task.
    """
    if isinstance(task, Task):
        return task
    return load_task(task) if isinstance(task, str | Path) else Task(given_problem(task))


def given_estimator(estimator: str | Estimator) -> Estimator:
    """The estimator that is meant.

    Args:
        estimator: itself or its spec.

    Returns:
        The estimator.
    """
    return resolve_one(estimator)[1]
