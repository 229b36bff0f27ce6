"""Moments of an estimator that are known exactly: from all its joint states, or from its only draw."""

from __future__ import annotations

import torch

from gradeval.checking.limits import ENUMERATED_ENTRIES
from gradeval.errors import GradevalError
from gradeval.reference import MAX_BITS, ExactGradient, ExactMoments, exact_moments
from gradeval.sampling.probes import check_pointwise, count_chance
from gradeval.sampling.sampler import Sampler


def can_be_known(sampler: Sampler, parameters: int, notes: list[str]) -> bool:
    """Whether an estimator's moments can be had exactly.

    Args:
        sampler: of the estimator.
        parameters: their number.
        notes: gets the reason why states cannot be enumerated.

    Returns:
        Whether all its joint states can be enumerated, or it takes no chance, so that all its draws are the same.
    """
    problem = sampler.problem
    if sampler.deterministic:
        return True
    if not sampler.vectorised or sampler.own_chance:
        return False
    try:
        check_pointwise(problem, sampler.estimator)
        bits, continuous = count_chance(problem, sampler.estimator)
    except GradevalError as error:
        notes.append(f"not decided exactly: {error}")
        return False
    affordable = bits <= MAX_BITS and 2**bits * problem.points * parameters <= ENUMERATED_ENTRIES
    return not continuous and affordable


def known_moments(sampler: Sampler, truth: ExactGradient) -> ExactMoments:
    """The moments of an estimator of which `can_be_known` is true.

    Args:
        sampler: of the estimator.
        truth: the exact gradient.

    Returns:
        Its moments.

    Raises:
        GradevalError: the estimator gives NaN, or raises.
    """
    if not sampler.deterministic:
        return exact_moments(sampler.problem, sampler.estimator, workers=1)
    gradients, values = sampler.chunk(1, "the only draw")
    mean = gradients[0].detach()
    nothing = torch.zeros_like(mean)
    return ExactMoments(mean, torch.diag(nothing), float(values[0]), truth.vector, truth.slices, nothing)
