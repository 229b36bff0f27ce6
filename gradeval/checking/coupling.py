"""What coupled data points cost an estimator: by how much the variance of a draw grows with the batch."""

from __future__ import annotations

from dataclasses import replace

from gradeval.model.randomness import derived_seed
from gradeval.sampling.sampler import Sampler

COUPLING_DRAWS, COUPLING_DRAWS_IN_A_LOOP = 2**11, 2**8


def variance_growth(sampler: Sampler) -> float:
    """The variance of a draw over what it would be if the points were drawn independently.

    Args:
        sampler: of the estimator on all points.

    Returns:
        tr Cov(g) N² / Σᵢ tr Cov(gᵢ), where gᵢ is a draw of the estimator on point i alone; 1 where that cannot be had.
    """
    problem, total = sampler.problem, 0.0
    draws = COUPLING_DRAWS if sampler.vectorised else COUPLING_DRAWS_IN_A_LOOP
    together, _ = sampler.chunk(draws, "coupling", derived_seed(problem.fingerprint()))
    try:
        for i in range(problem.points):
            one = replace(problem, inputs=problem.inputs[i : i + 1], targets=problem.targets[i : i + 1])
            alone, _ = Sampler(one, sampler.name, sampler.estimator).chunk(draws, "coupling", i)
            total += float(alone.var(0).sum())
    except Exception:  # it needs several points
        return 1.0
    return float(together.var(0).sum()) * problem.points**2 / total if total else 1.0
