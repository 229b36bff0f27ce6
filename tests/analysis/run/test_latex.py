"""The LaTeX table has the numbers of the summary; bold is what no other figure is surely better than."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gradeval.analysis.run.evaluation import Evaluation
from gradeval.errors import GradevalError
from gradeval.evaluation.run import evaluate


@pytest.fixture(scope="module")
def run(small) -> Evaluation:
    return evaluate(small, {"a_b & 100%": "st", "psa": "psa", "reinforce": "reinforce"}, draws=40, exact="never")


def rows(table: str) -> dict[str, list[str]]:
    return {line.split(" & ")[0]: line.rstrip("\\ ").split(" & ")[1:] for line in table.splitlines() if "$" in line}


def test_numbers_intervals_and_ties(run: Evaluation) -> None:
    table = run.latex(columns=["relative_bias", "cosine"])
    best = run.best[run.best["layer"] == "all"].set_index("estimator")
    found = rows(table.replace(r"a\_b \& 100\%", "a_b"))
    assert set(found) == {"a_b", "psa", "reinforce"}
    numbers = [float(x) for x in re.findall(r"-?[\d.]+", found["reinforce"][1])]
    row = best.loc["reinforce"]
    assert numbers == pytest.approx([row["cosine"], row["cosine_low"], row["cosine_high"]], rel=0.01)
    ends = best[["cosine_low", "cosine_high"]]
    for name, cells in found.items():
        high = ends.loc[name if name != "a_b" else "a_b & 100%", "cosine_high"]
        assert ("mathbf" in cells[1]) == (not (ends["cosine_low"] > high).any())
    assert any("mathbf" not in cells[1] for cells in found.values())


def test_a_wide_interval_about_the_best_value_makes_no_tie_of_what_is_surely_worse(run: Evaluation) -> None:
    """A sampled 0 ± 0.5 stands beside an exact 0 (but for rounding): an exact 0.3 is no tie of these."""
    best = run.best.copy()
    figures = {"a_b & 100%": (0.3, 0.3, 0.3), "psa": (0.0, 0.0, 0.5), "reinforce": (2e-16, 2e-16, 2e-16)}
    for name, three in figures.items():
        best.loc[best["estimator"] == name, ["relative_bias", "relative_bias_low", "relative_bias_high"]] = three
    other = replace(run)
    other.__dict__["best"] = best
    found = rows(other.latex(columns="relative_bias"))
    assert {name: "mathbf" in cells[0] for name, cells in found.items()} == {
        r"a\_b \& 100\%": False,
        "psa": True,
        "reinforce": True,
    }


def test_groups_and_shape(run: Evaluation) -> None:
    table = run.latex(intervals=False)
    assert "[" not in table
    assert (
        table.index("claims no bias")
        < table.index("reinforce")
        < table.index("emph{makes no claim}")
        < table.index("psa")
    )
    assert table.startswith("\\begin{tabular}{lrrrr}\n\\toprule\n")
    assert table.count("{") == table.count("}")
    assert "emph" not in run.latex(grouped=False)


def test_large_and_missing_numbers(run: Evaluation) -> None:
    best = run.best.copy()
    best.loc[best["estimator"] == "psa", ["relative_bias", "relative_bias_low", "relative_bias_high"]] = float("nan")
    best.loc[best["estimator"] == "reinforce", "relative_bias_high"] = 2e9
    other = replace(run)
    other.__dict__["best"] = best
    found = rows(other.latex(columns="relative_bias"))
    assert found["psa"] == [r"$\text{--}$"]
    assert r"2.00 \cdot 10^{9}" in found["reinforce"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["bias"]}, "unknown column"),
        ({"columns": []}, "columns is empty"),
        ({"layer": "9"}, "layer"),
    ],
)
def test_what_is_not_there(run: Evaluation, options, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        run.latex(**options)
