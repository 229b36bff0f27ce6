"""The page that says which estimator to take says what its tables say, and they what the atlas says."""

from __future__ import annotations

import math
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gradeval import Problem, StochasticBinaryNetwork
from gradeval.atlas import load

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    """The names of both files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        made = runpy.run_path(str(DOCS / "make_recommendation.py"))
    return vars(sys.modules["recommendation_study"]) | made


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(DOCS / "recommendation.csv")


def test_the_page_is_of_the_tables(table: pd.DataFrame, study: dict[str, Any]) -> None:
    """Planted: psa's variances are twice as large."""
    text = (DOCS / "recommendation.md").read_text()

    def rows(of: pd.DataFrame, *draws: int) -> list[str]:
        budgets = {study["words"](m): {"fit": float(m), "kept": float(m)} for m in draws}
        nets = [study["Nets"].of(of, kind) for kind in ("fit", "kept")]
        return study["answer_lines"](study["contests"](*nets, budgets, "kept"))

    outdated = "run python docs/make_recommendation.py --page and commit what it writes"
    assert "\n".join(rows(table, *study["BUDGETS"])) in text, outdated
    planted = table.assign(variance=table["variance"].where(table["estimator"] != "psa", 2 * table["variance"]))
    assert rows(planted, 10)[-1] not in text


def test_the_table_is_of_the_atlas(table: pd.DataFrame) -> None:
    rows = table[(table["net"] == "atlas saturated") & (table["draws"] == 0) & (table["estimator"] != "nvil")]
    rows = rows.set_index("estimator")  # nvil's fit has another seed there
    known = load("saturated").accuracy.query("layer == 'all'").set_index("estimator")
    for column in ("bias", "variance"):
        expected = known.loc[rows.index, f"relative_{column}"]
        np.testing.assert_allclose(rows[column], expected, rtol=1e-3, atol=1e-12)
    assert len(rows) >= 15


def test_saturation_of_one_unit(study: dict[str, Any]) -> None:
    """p = 0.9 without an input: 1 − 4 · 0.9 · 0.1."""
    map = nn.Linear(1, 1, dtype=torch.float64)
    with torch.no_grad():
        map.weight.zero_()
        map.bias.fill_(math.log(9.0))
    network = StochasticBinaryNetwork([map], nn.Identity())
    problem = Problem(network, torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64), "squared")
    assert study["saturation"](problem, draws=10) == pytest.approx(0.64, abs=1e-12)


def test_regret_by_hand(study: dict[str, Any]) -> None:
    """One net: bias 0.3 and variance 1.6 against no bias and variance 4. RMSE² of 10 draws: 0.25 and 0.4."""
    facts = pd.DataFrame({"depth": [1], "width": [2.0], "points": [1], "saturation": [0.5]}, index=["kept 0"])
    bias, variance = (
        pd.DataFrame(row, index=["kept 0"]) for row in ({"a": [0.3], "b": [0.0]}, {"a": [1.6], "b": [4.0]})
    )
    errors = study["Nets"](facts, bias, variance).log_errors(10.0)
    found = [float(study["regret"](errors, pd.Series(name, errors.index)).iloc[0]) for name in ("a", "b", "c")]
    assert found[:2] == pytest.approx([0.0, 0.5 * math.log(1.6)])
    assert math.isnan(found[2])  # no such estimator
