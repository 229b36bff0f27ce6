"""What is found out about an estimator before its chunks are made: all that runs its code, but the exact moments.

With processes of our own it is done in one of them, so that an estimator that hangs or ends its process harms no other.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from gradeval.analysis.run.rare import RareStates
from gradeval.errors import GradevalError, TooLong, estimator_error
from gradeval.estimators import Estimator
from gradeval.estimators.protocol import fit, learns
from gradeval.evaluation.chunks import Failure, Sent
from gradeval.evaluation.request import Request
from gradeval.model.problem import Problem
from gradeval.progress import Progress
from gradeval.reference.own_rare import is_large, own_rare_states
from gradeval.sampling.independence import independent_points
from gradeval.sampling.probes import check_pointwise, count_evaluations
from gradeval.sampling.sampler import Sampler, compute_seconds, turn_of
from gradeval.threads import one_thread
from gradeval.workers.executors import Assignment, Lost, Workers

MAX_BY_POINT = 2**20  # points × parameters of a draw of which the variance is measured point by point


@dataclass(frozen=True)
class Introduction:
    """What is known of an estimator that can be fitted and drawn.

    Args:
        sampler: of its draws.
        pointwise: whether its variance is measured point by point.
        probe: a few numbers of one draw, see `probe_numbers`.
        evaluations: how often a draw evaluates a layer, and the loss, for each point.
        fit: what its fit gave and cost; None where it learns nothing.
        rare: what states too rare to be drawn could contribute to it; None where that of any estimator counts.
    """

    sampler: Sampler
    pointwise: bool
    probe: list[float]
    evaluations: tuple[float, float]
    fit: dict[str, Any] | None
    rare: RareStates | None

    def without(self, problem: Problem | None, estimator: Estimator | None) -> Introduction:
        """The same for a way between processes: with another problem and estimator, None on the way.

        Args:
            problem: for the sampler.
            estimator: for the sampler, unless its own was fitted.

        Returns:
            A copy.
        """
        sampler: Any = copy(self.sampler)
        sampler.problem = problem
        if self.fit is None:
            sampler.estimator = estimator
        return replace(self, sampler=sampler)


@dataclass(frozen=True)
class Introducer:
    """Fits an estimator where it learns, makes its first draws and watches them.

    Args:
        problem: network, data and loss.
        name: of the estimator.
        estimator: as it was given.
        seed: of the fit.
    """

    problem: Problem
    name: str
    estimator: Estimator | None
    seed: int

    def with_estimator(self, estimator: Estimator | None) -> Introducer:
        """The same for another estimator.

        Args:
            estimator: None on the way to another process.

        Returns:
            A copy.
        """
        return replace(self, estimator=estimator)

    def __call__(self, progress: Progress) -> Introduction | Failure:
        """What is found out; an estimator's error is returned, not raised."""
        assert self.estimator is not None
        try:
            with one_thread():
                estimator, found = self._fitted(self.estimator, progress)
                sampler = Sampler(self.problem, self.name, estimator)
                probe = probe_numbers(sampler, self.problem.fingerprint())
                evaluations = _evaluations(sampler)
                return Introduction(sampler, _by_points(sampler), probe, evaluations, found, _own_rare(sampler))
        except TooLong:
            raise
        except GradevalError as error:
            return Failure(str(error), traceback.format_exc())

    def _fitted(self, estimator: Estimator, progress: Progress) -> tuple[Estimator, dict[str, Any] | None]:
        """The estimator, fitted to the problem and then frozen where it learns; what that gave and cost."""
        if not learns(estimator):
            return estimator, None
        task, device = f"fitting {self.name}", self.problem.network.device
        progress.start(task, estimator.budget)
        began = compute_seconds(device)
        fitted = fit(estimator, self.name, self.problem, self.seed, advance=partial(progress.advance, task))
        seconds = compute_seconds(device) - began
        progress.finish(task)
        return fitted.estimator, {"learned": fitted.learned, "seconds": seconds}


class SentIntroducer(Sent):
    """An `Introducer` for workers in other processes; what it finds comes back without problem and estimator.

    Args:
        call, spec: as of `Sent`.
    """

    def __call__(self, *arguments: Any) -> Any:
        """As of `Introducer`."""
        found = super().__call__(*arguments)
        return found.without(None, None) if isinstance(found, Introduction) else found


def introductions(
    request: Request, pool: Workers, progress: Progress
) -> Iterator[tuple[str, Introduction | Failure | Lost]]:
    """Introduce all estimators: in processes where they are our own, else here.

    Args:
        request: what is to be evaluated.
        pool: of the workers.
        progress: told of fits.

    Returns:
        The name of each estimator and what was found, in their order; an introduction that was made elsewhere lacks the
        problem and the estimator.
    """
    todo = [Introducer(request.problem, name, e, request.seed) for name, e in request.estimators.items()]
    if not pool.own_processes:
        yield from ((one.name, one(progress)) for one in todo)
        return

    def assignment(one: Introducer) -> Assignment[Introduction | Failure]:
        sent = SentIntroducer(one, request.spec(one.name))
        return Assignment(one.name, sent, (), owner=one.name, progress=progress)

    yield from ((task.key, found) for task, found in pool.in_order(map(assignment, todo), lambda finished: None))


def _evaluations(sampler: Sampler) -> tuple[float, float]:
    try:
        with turn_of(sampler, "count"):
            return count_evaluations(sampler.problem, sampler.estimator)
    except Exception as error:
        raise estimator_error(sampler.name, error) from error


def probe_numbers(sampler: Sampler, fingerprint: str) -> list[float]:
    """A few numbers of one draw, by which a change of an estimator or of what it builds on is noticed.

    Args:
        sampler: of the estimator.
        fingerprint: of the problem.

    Returns:
        Some of the gradient's entries and the value; none where the draw fails, or does not follow from the seed.
    """
    if sampler.own_chance:
        return []
    try:
        gradients, values = sampler.chunk(1, "probe", fingerprint, sampler.name)
    except GradevalError:  # it may do better in the chunks
        return []
    numbers = torch.cat([gradients[0, :32], values])
    return numbers.tolist() if bool(torch.isfinite(numbers).all()) else []


def _own_rare(sampler: Sampler) -> RareStates | None:
    """What rare states could contribute to an estimator itself, at size; a note says where that cannot be told."""
    if not is_large(sampler):
        return None
    try:
        return own_rare_states(sampler)
    except GradevalError as error:
        sampler.notes.append(f"what rare states may hide is reckoned as for REINFORCE, since it {error}")
        return None


def _by_points(sampler: Sampler) -> bool:
    """Whether the variance is measured point by point: where points are independent, and it is affordable."""
    problem = sampler.problem
    if sampler.deterministic or sampler.own_chance or not sampler.vectorised or problem.points == 1:
        return False
    if problem.points * sum(p.numel() for p in problem.network.trainable().values()) > MAX_BY_POINT:
        return False
    try:  # of all points: one that is alone would hide what an estimator does to the fifth of a batch
        check_pointwise(problem, sampler.estimator)
    except GradevalError:
        return False
    return independent_points(problem, sampler.estimator)
