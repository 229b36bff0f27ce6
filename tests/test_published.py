"""The page of published numbers says what its table says, and what is exact there is what the code says."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
OUTDATED = "run python docs/make_published.py and commit what it writes"

pytestmark = pytest.mark.no_shapes


@pytest.fixture(scope="module")
def made() -> dict:
    return runpy.run_path(str(DOCS / "make_published.py"), run_name="published")


def test_the_page_is_of_the_table(made: dict) -> None:
    """Planted: a verdict that is another."""
    table = made["read"]()
    assert made["csv"](table) == (DOCS / "published.csv").read_text(), OUTDATED
    assert made["page"](table) == (DOCS / "published.md").read_text(), OUTDATED
    assert made["page"](table.replace({"verdict": {"holds": "refuted"}})) != (DOCS / "published.md").read_text()


def test_three_bernoullis_are_computed_anew(made: dict) -> None:
    table = made["read"]()
    again, kept = made["csv"](made["bernoullis"]()), made["csv"](table[table["source"] == "liu"])
    for new, old in zip(again.splitlines()[1:], kept.splitlines()[1:], strict=True):
        for first, second in zip(new.split(","), old.split(","), strict=True):
            try:
                assert float(first) == pytest.approx(float(second), rel=1e-9, abs=1e-9)
            except ValueError:
                assert first == second, OUTDATED


def test_no_number_differs_and_an_error_of_a_tenth_would(made: dict) -> None:
    """Planted: our exact variance with two summed states, or the original code's error of one draw, 10 % larger."""
    table = made["read"]()
    limit = made["critical"](table)
    assert table["z"].abs().max() < limit
    liu, psa = made["numbers"]("liu"), made["numbers"]("psa")
    row = liu[(liu["quantity"] == "variance") & (liu["layer"] == "0")].iloc[0].to_dict()
    row["error"] = made["summed"](()).error(10_000)
    other = psa[(psa["quantity"] == "relative_rmse") & (psa["samples"] == "1")].iloc[0].to_dict()
    for one in (row, other):
        assert abs(made["compared"](one, 1.1 * one["value"], 0.0)["z"]) > limit


def test_the_error_of_a_variance(made: dict) -> None:
    """Of a fair coin's, known: Var(s²) = (μ₄ − σ⁴ (n − 3)/(n − 1))/n with σ² = 1/4 and μ₄ = 1/16."""
    coin = made["Cumulants"].of(made["np"].array([0.0, 1.0]), made["np"].array([0.5, 0.5]))
    assert coin.error(10) == pytest.approx(math.sqrt((1 / 16) * (1 - 7 / 9) / 10))
    two = coin + coin  # binomial: μ₄ = 3σ⁴ + κ₄, κ₄ = n p q (1 − 6 p q)
    assert two.fourth == pytest.approx(2 * 0.25 * (1 - 6 * 0.25))


@pytest.mark.parametrize(
    ("number", "exact", "verdict"),
    [(1.0, True, "holds"), (1.1, True, "refuted"), (1.1, False, "undecided"), (0.9, False, "holds")],
)
def test_verdicts(made: dict, number: float, exact: bool, verdict: str) -> None:
    assert made["Statement"]("", "ugc", "", number, 1.0, exact).row()["verdict"] == verdict


def test_a_formula_of_others_is_the_exact_gradient(made: dict) -> None:
    assert made["formula_error"]() < 1e-12
    assert made["largest_slope"]() == pytest.approx(-(1 - 2 * 0.499))
