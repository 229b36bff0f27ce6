"""How long a run will take, said before anything is written."""

from __future__ import annotations

import time

from gradeval.errors import GradevalError
from gradeval.evaluation.chunks import ChunkMaker
from gradeval.evaluation.curves import joint_states
from gradeval.reference import MAX_BITS
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.streaming import ChunkStatistics

TIMED_FROM = 1000  # draws; of fewer none are timed
ENOUGH_SECONDS, SLOW_SECONDS = 0.2, 5.0  # of the draws that are timed; of two, after which no more are
SHORT = 1.0  # seconds that need not be known better
LEAST_SECONDS = 1e-7  # of a draw, where none can be timed
ENTRIES_A_SECOND = 1e8  # joint states × points × parameters


def seconds_of_draws(maker: ChunkMaker | None, draws: int) -> float:
    """Predict the seconds of compute that draws take, from a few, and from more where that is not short.

    Args:
        maker: of the estimator's chunks; None where none may be made here.
        draws: their number.

    Returns:
        The seconds on one thread; of few draws zero; the least there can be, where none are made.
    """
    if draws < TIMED_FROM:
        return 0.0
    if maker is None or maker.sampler.own_chance:  # more draws might change those that follow
        return draws * LEAST_SECONDS
    predicted = 0.0
    length = maker.scorer.extent.chunk
    for count in sorted({2, min(32, length), min(512, length), length}):
        began = time.perf_counter()
        if count > draws or not isinstance(maker(1, count), ChunkStatistics):  # what fails has its say when it counts
            break
        seconds = time.perf_counter() - began
        predicted = draws * seconds / count
        # a call of two draws is mostly the call itself
        if predicted < SHORT or seconds > (SLOW_SECONDS if count == 2 else ENOUGH_SECONDS):
            break
    return max(predicted, draws * LEAST_SECONDS)


def seconds_of_moments(sampler: Sampler, exact: str, parameters: int) -> float:
    """Predict the seconds of compute of an estimator's exact moments.

    Args:
        sampler: of the estimator.
        exact: "auto", "always" or "never".
        parameters: their number.

    Returns:
        The seconds on one thread; zero where there will be none.
    """
    try:
        states = joint_states(sampler, exact, parameters)
    except GradevalError:
        return 0.0
    if states > 2**MAX_BITS:  # it is refused when it is due
        return 0.0
    return states * sampler.problem.points * parameters / ENTRIES_A_SECOND
