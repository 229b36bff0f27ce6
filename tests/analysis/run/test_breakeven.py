"""Break-even numbers and the share of variance that is removed, from made-up summaries."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from gradeval.analysis.run.breakeven import breakeven_table, reduction_table


def row(name: str, unbiased: bool, bias: float, variance: float, share: float = 0.0) -> dict[str, object]:
    """A row of a summary; every interval reaches ``share`` to either side."""
    made: dict[str, object] = {"estimator": name, "layer": "all", "unbiased": unbiased, "biased": not unbiased}
    made |= {"seconds_per_draw": 2.0, "seconds_per_draw_low": 2.0, "seconds_per_draw_high": 2.0}
    for key, value in (("relative_bias", bias), ("relative_variance", variance)):
        made |= {key: value, f"{key}_low": value * (1 - share), f"{key}_high": value * (1 + share)}
    return made | {"layer_evaluations": 3.0, "loss_evaluations": 1.0}


def test_an_unbiased_estimator_overtakes_a_biased_one() -> None:
    """From M = (V₁ − V₂)/b² draws on; planted: the variances exchanged, b instead of b²."""
    (pair,) = breakeven_table(pd.DataFrame([row("arm", True, 0.0, 9.0), row("st", False, 0.5, 1.0)])).to_dict("records")
    assert (pair["unbiased"], pair["biased"], pair["draws"], pair["seconds"]) == ("arm", "st", 32.0, 64.0)
    wide = breakeven_table(pd.DataFrame([row("arm", True, 0.0, 9.0, 0.1), row("st", False, 0.5, 1.0, 0.1)]))
    (low, high) = wide.loc[0, ["draws_low", "draws_high"]]
    assert low == pytest.approx((8.1 - 1.1) / 0.55**2)
    assert high == pytest.approx((9.9 - 0.9) / 0.45**2)


def test_break_even_is_at_the_start_or_never() -> None:
    better, unseen = row("a", False, 0.5, 9.0), row("b", False, 0.0, 1.0)
    table = breakeven_table(pd.DataFrame([row("arm", True, 0.0, 2.0), better, unseen])).set_index("biased")
    assert table.loc["a", "draws"] == 0
    assert table.loc["b", "draws"] == math.inf
    assert breakeven_table(pd.DataFrame([better])).empty
    undecided = row("u", False, 0.1, 1.0) | {"biased": False}  # neither unbiased nor biased
    assert breakeven_table(pd.DataFrame([row("arm", True, 0.0, 2.0), undecided])).empty


@pytest.mark.parametrize("variance", [1.0, 9.0, 40.0])
def test_the_interval_of_the_share_holds_whatever_is_in_the_three_intervals(variance: float) -> None:
    """Better than RAM, between the yardsticks and worse than REINFORCE; the oracle is a grid over the box."""
    names = {"reinforce": 10.0, "ram": 8.0, "arm": variance}
    best = pd.DataFrame([row(name, True, 0.0, value, 0.05) for name, value in names.items()])
    found = reduction_table(best).set_index("estimator")
    grid = (np.linspace(0.95 * value, 1.05 * value, 21) for value in names.values())
    plain, ram, own = np.meshgrid(*grid)
    shares = (plain - own) / (plain - ram)
    assert tuple(found.loc["arm", ["share_low", "share_high"]]) == pytest.approx((shares.min(), shares.max()))
    assert found.loc["arm", "share_low"] <= found.loc["arm", "share"] <= found.loc["arm", "share_high"]
    assert found.loc["arm", "evaluations_gain"] == pytest.approx(10 / variance)
    for name, share in (("reinforce", 0.0), ("ram", 1.0)):
        assert set(found.loc[name, ["share", "share_low", "share_high"]]) == {share}
    assert reduction_table(best[best["estimator"] != "ram"]).empty


def test_yardsticks_that_may_be_one_measure_nothing() -> None:
    best = pd.DataFrame(
        [row(name, True, 0.0, value, 0.2) for name, value in (("reinforce", 10.0), ("ram", 9.0), ("a", 5.0))]
    )
    found = reduction_table(best).set_index("estimator")
    assert tuple(found.loc["a", ["share_low", "share_high"]]) == (-math.inf, math.inf)
