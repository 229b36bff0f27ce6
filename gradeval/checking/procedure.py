"""CHECK: is an estimator what it claims to be? A verdict on small problems, exact where it can be."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict, Unpack

import torch

from gradeval.checking.battery import battery_problems
from gradeval.checking.claims import Claims, State
from gradeval.checking.conclusion import conclude
from gradeval.checking.limits import Limits
from gradeval.checking.subject import Subject
from gradeval.checking.verdict import Verdict
from gradeval.errors import GradevalError, check_options
from gradeval.estimators import Estimator, claims_unbiased, resolve
from gradeval.model.precision import in_precision
from gradeval.model.problem import Problem
from gradeval.progress import Progress, Silent
from gradeval.torch_private import quiet_vmap

TASK = "checking"


class CheckOptions(TypedDict, total=False):
    """What `check` judges and how far it goes; see `check` for what each means."""

    unbiased: bool | None
    max_relative_bias: float | None
    min_cosine: float | None
    max_relative_variance: float | None
    alpha: float
    detect: float
    seed: int
    max_draws: int
    precision: str


def check(
    estimator: str | Estimator,
    *,
    problems: Sequence[Problem] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[CheckOptions],
) -> Verdict:
    """Check an estimator against the exact gradients of small problems.

    An estimator whose only chance is Bernoulli states is decided exactly where all its joint states can be enumerated,
    otherwise by a sequential test (`gradeval.checking.sequential`) whose false-alarm rate over all problems, layers and
    looks together is at most ``alpha``.

    Args:
        estimator: a spec ("psa", "module:name", "file.py:name") or a callable.
        problems: to check it on; by default the battery's.
        workers: threads; the result does not depend on it. Default: one per core.
        progress: receives progress, two steps for each problem.
        unbiased: whether to check E[g] = ∇J and E[value] = J; by default where the estimator claims it.
        max_relative_bias: a bound for ‖E g − g*‖/‖g*‖ in every layer.
        min_cosine: a bound for the cosine between E[g] and g* in every layer.
        max_relative_variance: a bound for tr Cov(g)/‖g*‖² of one draw in every layer.
        alpha: the false-alarm rate; default 10⁻⁶.
        detect: the relative bias, in any layer and direction, that is to be found with probability 0.99 before the
            verdict "holds"; default 0.01.
        seed: every random number follows from it; default 0.
        max_draws: the most draws on one problem; default 2²³.
        precision: of the draws: "double" (default) or "network" for the network's own; all else is in double precision.

    Returns:
        The verdict: holds, fails or undecided, with a table and a diagnosis.

    Raises:
        GradevalError: an unknown estimator, or an argument out of its range.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units="2", stage=0, points=4)
        >>> gradeval.check("disarm", problems=[problem]).headline
        'disarm: unbiased: HOLDS'
    """
    check_options("check", options, CheckOptions)
    bounds = ("max_relative_bias", "min_cosine", "max_relative_variance")
    limits = Limits(**{key: options[key] for key in options if key not in (*bounds, "unbiased", "precision")})  # type: ignore[literal-required]
    ((name, subject),) = resolve([estimator]).items()
    claimed = options.get("unbiased")
    claimed = claims_unbiased(subject) if claimed is None else claimed
    given = [options.get(key) for key in bounds]
    claims = Claims(claimed, *(None if bound is None else float(bound) for bound in given))  # type: ignore[arg-type]
    subjects = _study(
        name,
        subject,
        _converted(problems, options.get("precision", "double")),
        claims,
        limits,
        workers or torch.get_num_threads(),
        progress or Silent(),
    )
    return conclude(name, claims, limits, subjects)


def _converted(problems: Sequence[Problem] | None, precision: str) -> list[Problem]:
    """The problems, or the battery's, in the precision in which draws are made."""
    return [in_precision(problem, precision) for problem in (battery_problems() if problems is None else problems)]


def _study(
    name: str,
    estimator: Estimator,
    problems: list[Problem],
    claims: Claims,
    limits: Limits,
    workers: int,
    progress: Progress,
) -> list[Subject]:
    """Study the estimator on every problem: first coarsely, then, unless it fails somewhere, as the claims need."""
    if not problems:
        raise GradevalError("problems is empty: give at least one problem, or leave it out for the battery's.")
    tests = sum(2 * len(problem.network.layer_slices()) - 1 for problem in problems)

    def refine(subject: Subject, radius: float | None) -> None:
        subject.refine(radius)
        progress.advance(TASK, 1)

    progress.start(TASK, 2 * len(problems))
    with quiet_vmap(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # one after the other, so that changes of what is global (a generator, parameters) are seen
        subjects = [Subject(name, estimator, problem, claims, limits, tests) for problem in problems]
        for radius in (limits.coarse, None):
            if not any(s.trouble or (radius is None and s.state is State.FAILS) for s in subjects):
                list(pool.map(refine, subjects, [radius] * len(subjects)))
    progress.finish(TASK)
    return subjects
