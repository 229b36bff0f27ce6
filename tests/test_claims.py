"""The verdicts of docs/make_claims.py: by interval, never by eye."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradeval.analysis.statistics import Interval

claims = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "make_claims.py"), run_name="claims")


@pytest.mark.parametrize(
    ("interval", "verdict", "mirrored"),
    [
        (Interval(2.0, 1.1, 3.0), "supported", "refuted"),
        (Interval(2.0, 1.0, 3.0), "undecided", "undecided"),  # touches the threshold
        (Interval(1.0, 0.5, 1.5), "undecided", "undecided"),
        (Interval(0.0, -1.0, 0.9), "refuted", "supported"),
        (Interval(float("nan"), float("nan"), float("nan")), "undecided", "undecided"),
    ],
)
def test_a_verdict_follows_from_the_whole_interval(interval: Interval, verdict: str, mirrored: str) -> None:
    assert claims["above"](interval, 1.0) == verdict
    assert claims["below"](interval, 1.0) == mirrored


def test_several_statements_hold_when_each_does() -> None:
    assert claims["every"](["supported", "supported"]) == "supported"
    assert claims["every"](["supported", "undecided"]) == "undecided"
    assert claims["every"](["undecided", "refuted"]) == "refuted"


def test_means_have_students_interval_with_bonferronis_level() -> None:
    values = pd.Series([1.0, 2.0, 4.0, np.nan, np.inf])  # what is not finite compares nothing
    for comparisons in (1, 5):
        found = claims["mean"](values, comparisons)
        level = 1 - 0.05 / comparisons
        expected = stats.t.interval(level, 2, loc=7 / 3, scale=stats.sem([1, 2, 4]))
        assert (found.low, found.high) == pytest.approx(expected)


def test_nothing_is_supported_too_often() -> None:
    """4000 data sets without an effect: "supported" in 2.5 % and "refuted" in 2.5 %, to binomial error at 1e-6."""
    random = np.random.default_rng(0)
    verdicts = [claims["above"](claims["mean"](pd.Series(random.normal(size=12)))) for _ in range(4000)]
    for verdict in ("supported", "refuted"):
        assert stats.binom.ppf(1e-6, 4000, 0.025) <= verdicts.count(verdict) <= stats.binom.isf(1e-6, 4000, 0.025)


# --- what each claim rests on -----------------------------------------------------------------------------------------

COSTS = """# Costs

## a net

| | FLOPs of products | all FLOPs, a function as 1 | all FLOPs, a function as 12 | time | memory |
|---|---|---|---|---|---|
| back-propagation | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |
| psa, separable | 1.50 | {flops} | 1.55 | {time} | 2.63 |

## growth

| | evaluations, depth | flops, depth | seconds, depth | flops, width |
|---|---|---|---|---|
| back-propagation | 1.00 [0.99, 1.00] | 1.00 [1.00, 1.00] | 0.77 [0.57, 0.97] | 2.00 [2.00, 2.00] |
| psa | 0.99 [0.94, 1.04] | {growth} | 1.07 [0.79, 1.34] | 2.00 [2.00, 2.00] |
| ram | 2.00 [1.99, 2.00] | {ram} | 1.56 [-0.84, 2.28] | 3.00 [3.00, 3.00] |
"""


def test_costs_are_the_measured_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(d) and (e) rest on docs/cost.md, not on formulas: other numbers there give other verdicts."""
    costs = claims["costs"]
    monkeypatch.setitem(costs.__globals__, "HERE", tmp_path)
    one, other = "1.00 [1.00, 1.00]", "1.50 [1.40, 1.60]"
    for flops, time, growth, ram, verdicts in (
        (1.53, 2.84, one, "2.00 [1.99, 2.01]", ["supported", "refuted", "supported", "supported", "undecided"]),
        (
            2.5,
            1.84,
            other,
            other,
            ["refuted", "supported", "refuted", "refuted", "undecided"],
        ),
    ):
        (tmp_path / "cost.md").write_text(COSTS.format(flops=flops, time=time, growth=growth, ram=ram))
        assert [claim.verdict for claim in costs(tmp_path)] == verdicts
    assert claims["interval_of"]("-0.10 [-0.84, 2.28]") == Interval(-0.10, -0.84, 2.28)


def curves_of(data: int, runs: int, objective: dict[str, float], noise: float) -> pd.DataFrame:
    """Objectives that fall from 1 to ``objective``, with a part that all runs on these data share."""
    random = np.random.default_rng(data)
    shared = {name: noise * random.normal() for name in objective}
    rows = [
        (name, run, epoch, value if epoch else 1.0)
        for name, end in objective.items()
        for run in range(runs)
        for epoch, value in enumerate((1.0, end + shared[name] + 1e-6 * random.normal()))
    ]
    return pd.DataFrame(rows, columns=["estimator", "seed", "epoch", "objective"])


def test_a_data_set_is_one_observation_in_training() -> None:
    """Twenty runs on each of three data sets agree to 1e-6, and the data sets do not: three observations, not sixty."""
    objective = {"psa": 0.50, "st": 0.52, "arm": 0.55}
    many = claims["training_claims"]({data: curves_of(data, 20, objective, 0.05) for data in (1, 2, 3)})
    few = claims["training_claims"]({data: curves_of(data, 1, objective, 0.05) for data in (1, 2, 3)})
    assert "paired over 3 data sets" in many[0].measured
    assert many[0].verdict == few[0].verdict == "undecided"
    clear = claims["training_claims"]({data: curves_of(data, 2, objective, 1e-4) for data in (1, 2, 3)})
    assert clear[0].verdict == "supported"
    assert [claim.theirs for claim in clear] == [True] * 3 + [False] * 3


def test_the_pilots_data_are_not_in_the_training_claim() -> None:
    assert 0 not in claims["DATA_SETS"]
    assert len(claims["DATA_SETS"]) > 5


def test_nets_of_a_seed_are_one_observation() -> None:
    """Four shapes and two stages of each of three seeds: a mean has two degrees of freedom, not 23."""
    rows = [
        {"estimator": "arm", "units": units, "stage": stage, "seed": seed, "relative_variance": 2.0**seed}
        for units in "abcd"
        for stage in (1, 100)
        for seed in range(3)
    ]
    assert claims["by_seed"](pd.DataFrame(rows), "arm", "relative_variance").to_list() == pytest.approx([1, 2, 4])


def test_the_page_says_whose_a_claim_is_and_what_holds_by_construction() -> None:
    text = (Path(__file__).parents[1] / "docs" / "claims.md").read_text()
    table = [line.split(" | ") for line in text.splitlines() if line.startswith("| (")]
    assert {row[2] for row in table} == {"response", "ours"}
    (validation,) = (row for row in table if row[0] == "| (g)")
    assert "by construction" in validation[3]
    margin = next(row for row in table if "MuProp's" in row[1])
    assert "by a tenth or more" in margin[1]
    assert margin[2] == "ours"
    for statement in (claim.statement for claim in claims["costs"](None)):
        assert statement in text
