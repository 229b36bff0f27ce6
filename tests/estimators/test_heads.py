"""What the table says of the head's gradient is so: one sampled path has REINFORCE's covariance there, no other has."""

from __future__ import annotations

from functools import cache

import pytest
from torch import Tensor

from gradeval import exact_moments, load_problem
from gradeval.estimators import get_estimator
from gradeval.estimators.facts import ONE_PATH, Chance
from gradeval.estimators.protocol import fit
from gradeval.estimators.table import TABLE
from gradeval.model.problem import Problem

FEWER = {name: f"{name}:samples=2" for name in ("rloo", "double-cv", "rodeo")}  # states to enumerate


@cache
def problem() -> Problem:
    return load_problem("expclass", units="2-1", stage=0, points=3)


def head(spec: str) -> Tensor:
    moments = exact_moments(problem(), fit(get_estimator(spec), spec, problem()).estimator)
    return moments.covariance[moments.slices["head"], moments.slices["head"]]


@pytest.mark.parametrize("name", [name for name, facts in TABLE.items() if facts.randomness is not Chance.CONTINUOUS])
def test_the_head_of_one_path_is_that_of_reinforce(name: str) -> None:
    same = head(FEWER.get(name, name)).sub(head("reinforce")).abs().max() < 1e-12
    assert bool(same) == (TABLE[name].head == ONE_PATH)
