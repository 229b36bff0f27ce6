"""Against the original study's own code: its exact gradient and its curves, on its trained network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gradeval import Problem, evaluate
from gradeval.estimators import PAPER
from gradeval.reference import exact_gradient

DATA = Path(__file__).parents[3] / "shared" / "data"
NAME = "5-5-5-epoch-1"

pytestmark = [
    pytest.mark.no_shapes,
    pytest.mark.skipif(not (DATA / f"{NAME}.json").exists(), reason=f"the original study's data is not at {DATA}"),
]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem.load(DATA / f"{NAME}.json")


def test_exact_gradient_equals_the_original_codes(problem: Problem) -> None:
    original = json.loads((DATA / f"{NAME}-exact.json").read_text())
    ours = exact_gradient(problem)
    assert ours.value == pytest.approx(original["value"], rel=1e-10)
    for layer, gradient in original["gradient"].items():
        torch.testing.assert_close(
            ours.by_layer()[layer], torch.tensor(gradient, dtype=torch.float64), rtol=1e-10, atol=0
        )


def test_curves_equal_the_original_codes(problem: Problem) -> None:
    """7 estimators × 4 layers × 7 M × 2 scores = 392 comparisons at |z| < 4: together 2.5 % false alarms over seeds."""
    original = pd.read_csv(DATA / f"{NAME}-original-code.csv")
    original = original[original["samples"].isin([1, 2, 5, 10, 20, 50, 100])]
    ours = evaluate(problem, PAPER, draws=4_000, seed=1, exact="never").curves
    both = original.merge(ours, on=["estimator", "layer", "samples"], suffixes=("_original", "_ours"))
    assert len(both) == 7 * 4 * 7
    for theirs, ours_ in (("cosine", "blocks_cosine"), ("relative_rmse", "blocks_rmse")):  # both over blocks of M draws
        # the figures of the original are given to five digits
        rounding = 5e-5 * both[ours_].abs()
        error = np.sqrt(both[f"{ours_}_se"] ** 2 + both[f"{theirs}_se"] ** 2 + rounding**2)
        z = (both[ours_] - both[f"{theirs}_original"]) / error
        worst = both.assign(z=z).loc[z.abs().idxmax()]
        assert abs(worst["z"]) < 4, worst.to_string()
