"""Making chunks of draws, and calls of estimators sent to other processes."""

from __future__ import annotations

import pickle
import traceback
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gradeval.errors import GradevalError
from gradeval.estimators import Estimator, get_estimator
from gradeval.sampling.point_draws import draws_of_points
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.streaming import ChunkStatistics, Scorer, reduce_chunk
from gradeval.sampling.timing import further_times
from gradeval.threads import one_thread


@dataclass(frozen=True)
class Failure:
    """In place of a chunk: what an estimator did wrong.

    Args:
        message: in one sentence.
        traceback: where it was raised; empty where that is not known.
    """

    message: str
    traceback: str


@dataclass(frozen=True)
class ChunkMaker:
    """Makes and reduces chunks of one estimator's draws, on one thread.

    Args:
        sampler: of the estimator.
        scorer: compares draws with g*.
        names: what the draws are seeded by, beside the chunk's index. The estimator's is not among them: all estimators
            of a run take the same random numbers, so that their differences can be measured in pairs.
        pointwise: whether the points of a draw are independent, see `independent_points`.
        planned: number of draws that the run was asked for; a deterministic estimator makes fewer.
    """

    sampler: Sampler
    scorer: Scorer
    names: tuple[object, ...]
    pointwise: bool
    planned: int

    @property
    def name(self) -> str:
        """Of the estimator."""
        return self.sampler.name

    def with_estimator(self, estimator: Estimator | None) -> ChunkMaker:
        """The same for another estimator.

        Args:
            estimator: None on the way to another process.

        Returns:
            A copy.
        """
        sampler = copy(self.sampler)
        sampler.estimator = estimator
        return replace(self, sampler=sampler)

    def __call__(self, index: int, count: int) -> ChunkStatistics | Failure:
        """The statistics of the ``count`` draws of chunk ``index``; an estimator's error is returned, not raised."""
        times: list[tuple[int, float]] = []
        try:
            with one_thread():
                planned, deviations = self.planned, None
                if self.pointwise:  # it costs more than a draw: a batch of plain ones is timed
                    planned = min(count, self.sampler.batch)
                    self.sampler.chunk(planned, *self.names, "time", index, times=times)
                    gradients, values, deviations = draws_of_points(self.sampler, count, *self.names, index)
                else:
                    gradients, values = self.sampler.chunk(count, *self.names, index, times=times)
                # the statistics are in double precision, whatever the draws
                statistics = reduce_chunk(self.scorer, gradients.double(), values.double(), index, deviations)
                if index == 0:
                    times = further_times(self.sampler, planned, times, *self.names)
        except GradevalError as error:
            return Failure(str(error), traceback.format_exc())
        statistics.times = np.array(times, dtype=float).reshape(-1, 2)
        return statistics


class Sendable(Protocol):
    """A call that runs an estimator."""

    @property
    def name(self) -> str:
        """Of the estimator."""

    def with_estimator(self, estimator: Estimator | None) -> Sendable:
        """The same for another estimator.

        Args:
            estimator: None on the way to another process.

        Returns:
            A copy.
        """

    def __call__(self, *arguments: Any) -> Any:
        """Make the call.

        Args:
            arguments: of the call.
        """


class Sent:
    """A call for workers in other processes: it is sent as bytes, which a worker unpickles once.

    Args:
        call: what is sent.
        spec: of a user's own estimator, which the worker imports itself; None sends the estimator.

    Raises:
        GradevalError: the problem or the estimator cannot be pickled.
    """

    def __init__(self, call: Sendable, spec: str | None) -> None:
        self.name = call.name
        self.spec = spec
        if spec is not None:
            module, _, name = spec.partition(":")
            self.spec = f"{Path(module).resolve()}:{name}" if module.endswith(".py") else spec
            call = call.with_estimator(None)
        try:
            self.content = _pickle(call)
        except Exception as error:
            raise GradevalError(
                f"estimator '{self.name}' cannot be sent to another process ({error}): define it, and a loss of your "
                "own, at the top level of a module, or use threads."
            ) from None

    def __call__(self, *arguments: Any) -> Any:
        """As of the call; a `Failure` where it cannot be loaded."""
        try:
            call = _received(self.content, self.spec)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            return Failure(f"estimator '{self.name}' cannot be loaded by a worker ({what}).", traceback.format_exc())
        return call(*arguments)


def _pickle(call: Sendable) -> bytes:
    try:
        from cloudpickle import dumps  # comes with Dask; also takes what is defined in the main program
    except ImportError:
        from pickle import dumps
    content: bytes = dumps(call)
    return content


@lru_cache(maxsize=32)
def _received(content: bytes, spec: str | None) -> Sendable:
    call: Sendable = pickle.loads(content)  # from our own client, not from a file
    return call if spec is None else call.with_estimator(get_estimator(spec))
