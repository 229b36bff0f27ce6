"""CHECK: is an estimator what it claims to be? A verdict on small problems, exact where it can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, TypeVar, Unpack

from gradeval.arguments import listener, real, shown, workers_of
from gradeval.checking.battery import battery_problems, bound_problems, edge_problems
from gradeval.checking.claims import Claims, State
from gradeval.checking.conclusion import conclude
from gradeval.checking.equality import Definition, Pair
from gradeval.checking.equality_verdict import conclude_equality
from gradeval.checking.forecast import most_seconds, seconds_to_decide
from gradeval.checking.limits import Limits
from gradeval.checking.subject import Subject
from gradeval.checking.verdict import Verdict
from gradeval.errors import GradevalError, check_options, enumeration
from gradeval.estimators import Estimator, claims_unbiased, get_facts, resolve_one
from gradeval.estimators.facts import ANY_LOSS
from gradeval.given import GivenProblem, given_problems
from gradeval.model.precision import in_precision
from gradeval.model.problem import Problem
from gradeval.progress import Progress, foretell
from gradeval.threads import single_threads
from gradeval.torch_private import quiet_vmap

TASK = "checking"
BOUNDS = ("max_relative_bias", "min_cosine", "max_relative_variance")


class CheckOptions(TypedDict, total=False):
    """What `check` judges and how far it goes; see `check` for what each means."""

    unbiased: bool | None
    max_relative_bias: float | None
    min_cosine: float | None
    max_relative_variance: float | None
    equals: str | Estimator | None
    equals_mean: str | Estimator | None
    alpha: float
    detect: float
    seed: int
    max_draws: int | None
    precision: str


def check(
    estimator: str | Estimator,
    *,
    problems: GivenProblem | Sequence[GivenProblem] | None = None,
    further: GivenProblem | Sequence[GivenProblem] = (),
    workers: int | None = None,
    progress: Progress | bool | None = None,
    **options: Unpack[CheckOptions],
) -> Verdict:
    """Check an estimator against the exact gradients of small problems.

    An estimator whose joint states can be enumerated is decided exactly, otherwise by a sequential test
    (`gradeval.checking.sequential`) whose false-alarm rate over problems, layers and looks together is ``alpha``.

    Args:
        estimator: a spec ("psa", "module:name", "file.py:name") or a callable.
        problems: to check it on, each itself, its name or its file; by default the battery's.
        further: more problems, beside these.
        workers: threads; the result does not depend on it. Default: one per core.
        progress: receives progress, two steps for each problem; True for bars.
        unbiased: whether to check E[g] = ∇J and E[value] = J; by default where the estimator claims it.
        max_relative_bias: a bound for ‖E g − g*‖/‖g*‖ in every layer.
        min_cosine: a bound for the cosine between E[g] and g* in every layer.
        max_relative_variance: a bound for tr Cov(g)/‖g*‖² of one draw in every layer.
        equals: a spec or an estimator: whether mean, variance and value are those of this one; no other claim then.
        equals_mean: the same of mean and mean value only.
        alpha: the false-alarm rate; default 10⁻⁶.
        detect: the relative bias, in any layer and direction, that is to be found with probability 0.99 before the
            verdict "holds"; default 0.01.
        seed: every random number follows from it; default 0.
        max_draws: the most draws on one problem; default 2²³, in a loop as many as 2¹⁵ calls give.
        precision: of the draws: "double" (by default, whatever the network's) or "network" for the network's own.

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
    check_options(check, options, CheckOptions)
    name, subject = resolve_one(estimator)
    limits, definition = _limits(options), _definition(options)
    first, edges = _battery(subject) if problems is None else (given_problems(problems), [])
    places = [(problem, limits) for problem in (*first, *given_problems(further))]
    if not definition:
        places += [(problem, replace(limits, edge=True)) for problem in edges]
    precision, threads = options.get("precision", "double"), workers_of(workers)
    study = _Study([(in_precision(problem, precision), own) for problem, own in places], threads, listener(progress))
    if definition:
        pairs = study.carry_out(lambda *where: Pair(name, subject, definition, *where))
        return conclude_equality(name, definition, limits, pairs)
    claims = _claims(subject, options)
    subjects = study.carry_out(lambda problem, limits, tests: Subject(name, subject, problem, claims, limits, tests))
    return conclude(name, claims, limits, subjects)


def _battery(estimator: Estimator) -> tuple[list[Problem], list[Problem]]:
    """The ordinary problems, and those at the edge, that an estimator is defined for."""
    facts = get_facts(estimator)
    if facts is None or facts.loss == ANY_LOSS:
        return battery_problems(), edge_problems()
    return bound_problems(), []


def _limits(options: CheckOptions) -> Limits:
    """How far the check goes."""
    return Limits(**{key: value for key, value in options.items() if key in Limits.__annotations__})  # type: ignore[arg-type]


def _claims(estimator: Estimator, options: CheckOptions) -> Claims:
    """What is claimed of the estimator: by itself, or by the user."""
    claimed = options.get("unbiased")
    if claimed is not None and not isinstance(claimed, bool):
        raise GradevalError(f"unbiased must be True or False, found {shown(claimed)}.")
    bounds = [options.get(key) for key in BOUNDS]
    return Claims(
        claims_unbiased(estimator) if claimed is None else claimed,
        *(None if bound is None else real(key, bound) for key, bound in zip(BOUNDS, bounds, strict=True)),
    )


def _definition(options: CheckOptions) -> Definition | None:
    """What the estimator is to be equal to, if anything."""
    given = {key: options.get(key) for key in ("equals", "equals_mean") if options.get(key) is not None}
    if not given:
        return None
    others = [*given, *(key for key in ("unbiased", *BOUNDS) if options.get(key) is not None)]
    if len(others) > 1:
        raise GradevalError(f"{enumeration(others)} are claims of two checks: give one of them in each.")
    ((key, other),) = given.items()
    name, estimator = resolve_one(other)
    return Definition(name, estimator, variance=key == "equals")


Studied = TypeVar("Studied", Subject, Pair)


@dataclass(frozen=True)
class _Study:
    """An estimator on every problem: first coarsely, then, unless it fails somewhere, as the claims need."""

    places: Sequence[tuple[Problem, Limits]]
    workers: int
    progress: Progress

    def carry_out(self, make: Callable[[Problem, Limits, int], Studied]) -> list[Studied]:
        """Study what ``make`` makes of each problem, of its limits and of the number of tests."""
        if not self.places:
            raise GradevalError("problems is empty: give at least one problem, or leave it out for the battery's.")
        tests = sum(2 * len(problem.network.layer_slices()) - 1 for problem, _ in self.places)
        spent: dict[int, float] = {}

        def refine(subject: Studied, radius: float | None) -> None:
            began = time.perf_counter()
            subject.refine(radius)
            spent[id(subject)] = time.perf_counter() - began
            self.progress.advance(TASK, 1)

        self.progress.start(TASK, 2 * len(self.places))
        with quiet_vmap(), single_threads(self.workers) as pool:
            # one after the other, so that changes of what is global (a generator, parameters) are seen
            subjects = [make(problem, limits, tests) for problem, limits in self.places]
            self._foretell(lambda: sum(most_seconds(s, s.limits) for s in subjects))
            able = [s for s in subjects if not s.trouble]
            list(pool.map(refine, able, (s.limits.coarse for s in able)))
            if not any(s.trouble or s.state is State.FAILS for s in subjects):
                self._foretell(lambda: sum(seconds_to_decide(s, spent[id(s)]) for s in able))
                list(pool.map(refine, able, [None] * len(able)))
        self.progress.finish(TASK)
        return subjects

    def _foretell(self, seconds: Callable[[], float]) -> None:
        """Say how long the draws to come may take, of ``seconds`` on one thread."""
        foretell(self.progress, lambda: {TASK: seconds() / self.workers})
