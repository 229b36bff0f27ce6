"""How long a check may take, said before the draws are made."""

from __future__ import annotations

import math
import time

import torch

from gradeval.checking.claims import State
from gradeval.checking.equality import Pair
from gradeval.checking.limits import MAX_DRAWS, REPLICATES, Limits
from gradeval.checking.subject import Subject
from gradeval.errors import GradevalError
from gradeval.model.randomness import generator

TIMED_DRAWS = 512
LEAST_DRAW = 1e-7  # seconds of a draw, where none can be timed


def most_seconds(studied: Subject | Pair, limits: Limits) -> float:
    """How long the draws on one problem may take where more were asked for than are usual.

    Args:
        studied: before any draw.
        limits: with the most draws.

    Returns:
        Seconds on one thread if all draws are made; zero where no more than usual were asked for, or none are needed.
    """
    if studied.trouble or (limits.max_draws or 0) <= MAX_DRAWS:
        return 0.0
    sides = list(studied.sides.values()) if isinstance(studied, Pair) else [studied]
    return sum(
        limits.budget(side.sampler.vectorised, side.repeats) / side.repeats * _seconds_of_draw(side)
        for side in sides
        if not side.exactly
    )


def _seconds_of_draw(subject: Subject) -> float:
    sampler = subject.sampler
    if sampler.own_chance or subject.behaviour.own_chance or subject.behaviour.stateful:
        return LEAST_DRAW  # more draws might change those that follow
    random = generator(sampler.problem.network.device, "forecast")
    rows = torch.empty(TIMED_DRAWS if sampler.vectorised else 2, 0, dtype=sampler.problem.network.dtype)
    began = time.perf_counter()
    try:
        sampler.given(rows, random)
    except GradevalError:  # it has its say when it counts
        return LEAST_DRAW
    return (time.perf_counter() - began) / len(rows)


def seconds_to_decide(studied: Subject | Pair, spent: float) -> float:
    """How long an undecided claim may take, from the first draws: a detectable bias falls as the root of their number.

    Args:
        studied: after its first draws.
        spent: seconds that these took.

    Returns:
        Seconds on one thread; zero where nothing is left to do, and for two estimators, of which it is not known.
    """
    if isinstance(studied, Pair):
        return 0.0
    subject, replicates = studied, studied.replicates
    if subject.trouble or replicates is None or not subject.claims.words() or subject.state is not State.UNDECIDED:
        return 0.0
    detectable = max((finding.detectable for finding in subject.findings), default=math.inf)
    if math.isinf(detectable):  # it stops
        return 0.0
    drawn = REPLICATES * replicates.points * subject.repeats
    budget = subject.limits.budget(subject.sampler.vectorised, subject.repeats)
    needed = min(float(budget), drawn * (detectable / subject.limits.detect) ** 2)
    return spent * max(0.0, needed / drawn - 1)
