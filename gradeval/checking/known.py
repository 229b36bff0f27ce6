"""Moments of an estimator that are known exactly: from all its joint states, or from its only draw."""

from __future__ import annotations

import torch

from gradeval.reference import MAX_BITS, ExactGradient, ExactMoments, exact_moments
from gradeval.sampling.probes import check_pointwise, count_chance
from gradeval.sampling.sampler import Sampler


def can_be_known(sampler: Sampler, parameters: int, entries: int) -> bool:
    """Whether an estimator's moments can be had exactly.

    Args:
        sampler: of the estimator.
        parameters: their number.
        entries: joint states × points × parameters that are enumerated.

    Returns:
        Whether all its joint states can be enumerated, or it takes no chance, so that all its draws are the same.

    Raises:
        Coupled: the estimator's points are coupled.
        GradevalError: its states cannot be enumerated for another reason.
    """
    problem = sampler.problem
    if sampler.deterministic:
        return True
    check_pointwise(problem, sampler.estimator)
    bits, continuous = count_chance(problem, sampler.estimator)
    affordable = bits <= MAX_BITS and 2**bits * problem.points * parameters <= entries
    return sampler.vectorised and not sampler.own_chance and not continuous and affordable


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
