"""What the table says of the head's gradient is so: one sampled path has REINFORCE's covariance there, no other has."""

from __future__ import annotations

from functools import cache

import pytest
from torch import Tensor

from gradeval import exact_moments, load_problem
from gradeval.estimators import get_estimator
from gradeval.estimators.protocol import fit
from gradeval.estimators.table import ONE_PATH, TABLE, Chance
from gradeval.model.problem import Problem

SPECS = {"rloo": "rloo:samples=2", "double-cv": "double-cv:samples=2"}


@cache
def problem() -> Problem:
    return load_problem("expclass", units="2-1", stage=0, points=3)


def head(spec: str) -> Tensor:
    moments = exact_moments(problem(), fit(get_estimator(spec), spec, problem()).estimator)
    return moments.covariance[moments.slices["head"], moments.slices["head"]]


@pytest.mark.parametrize("name", [name for name, facts in TABLE.items() if facts.randomness is not Chance.CONTINUOUS])
def test_the_head_of_one_path_is_that_of_reinforce(name: str) -> None:
    same = head(SPECS.get(name, name)).sub(head("reinforce")).abs().max() < 1e-12
    assert bool(same) == (TABLE[name].head == ONE_PATH)
