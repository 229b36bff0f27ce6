"""Which of two estimators is better worth its draws: break-even numbers, and the variance that is removed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.statistics import ENDS


def breakeven_table(best: pd.DataFrame) -> pd.DataFrame:
    """From how many draws (seconds of compute) on the mean of an unbiased estimator beats that of a biased one.

    Draws: M = (V₁ − V₂)/b₂²; seconds: (V₁c₁ − V₂c₂)/b₂² with c seconds a draw. Exact V and b are used where known.
    The interval combines the 95 % intervals of V₁, V₂ and b₂, and for seconds of c₁ and c₂, at their worst and so
    covers at least as often. Where a run knows no interval of its times, seconds have none.

    Args:
        best: the summary of a run with the best known figures, see `best_known`.

    Returns:
        One row per layer × unbiased × biased estimator.
    """
    rows = []
    for layer, group in best.groupby("layer", sort=False):
        unbiased = group[group["unbiased"]]
        for one in unbiased.itertuples():
            for two in group[group["biased"]].itertuples():
                row = {"unbiased": one.estimator, "biased": two.estimator, "layer": layer}
                for key, c1, c2 in (("draws", (1.0,) * 3, (1.0,) * 3), ("seconds", _times(one), _times(two))):
                    v1, v2, bias = (
                        [getattr(of, f"relative_{what}{end}") for end in ENDS]
                        for of, what in ((one, "variance"), (two, "variance"), (two, "bias"))
                    )
                    for i, j, end in zip((0, 1, 2), (0, 2, 1), ENDS, strict=True):  # low ends against high ones
                        row[f"{key}{end}"] = _ratio(c1[i] * v1[i] - c2[j] * v2[j], bias[j])
                rows.append(row)
    columns = ["unbiased", "biased", "layer"]
    columns += [f"{key}{end}" for key in ("draws", "seconds") for end in ENDS]
    return pd.DataFrame(rows, columns=columns)


def reduction_table(best: pd.DataFrame) -> pd.DataFrame:
    """How much of the variance between REINFORCE and RAM each unbiased estimator removes, per layer.

    share = (V_R − V)/(V_R − V_RAM): 0 is REINFORCE's variance, 1 that of integrating out one unit at a time, which
    RAM was proposed to measure (Tokui & Sato 2017, arXiv:1611.01239). The gains compare work at equal accuracy to
    REINFORCE's: V_R c_R/(V c), with c layer and loss evaluations, or seconds, a draw. The share's interval
    combines the 95 % intervals of the three variances at their worst.

    Args:
        best: the summary of a run with the best known figures, see `best_known`.

    Returns:
        One row per layer × unbiased estimator; empty unless the run has both REINFORCE and RAM.
    """
    columns = ["estimator", "layer", "share", "share_low", "share_high", "evaluations_gain", "seconds_gain"]
    rows = []
    for layer, group in best.groupby("layer", sort=False):
        table = group.set_index("estimator")
        if not {"reinforce", "ram"} <= set(table.index):
            continue
        plain, ram = table.loc["reinforce"], table.loc["ram"]
        for name, row in table[table["unbiased"]].iterrows():
            variance = row["relative_variance"]
            middle = _share(variance, plain["relative_variance"], ram["relative_variance"])
            gains = [
                plain["relative_variance"] * plain_cost / (variance * cost) if variance > 0 else math.inf
                for plain_cost, cost in (
                    (_evaluations(plain), _evaluations(row)),
                    (plain["seconds_per_draw"], row["seconds_per_draw"]),
                )
            ]
            values = (name, layer, middle, *_ends_of_share(name, row, plain, ram), *gains)
            rows.append(dict(zip(columns, values, strict=True)))
    return pd.DataFrame(rows, columns=columns)


def _share(variance: float, plain: float, ram: float) -> float:
    return (plain - variance) / (plain - ram) if plain > ram else math.nan


def _ends_of_share(name: Hashable, row: Any, plain: Any, ram: Any) -> tuple[float, float]:
    """The least and the greatest share with each of the three variances anywhere in its interval."""
    if name in ("reinforce", "ram"):  # the same draws on both sides
        return (float(name == "ram"),) * 2
    boxes = ([one["relative_variance_low"], one["relative_variance_high"]] for one in (row, plain, ram))
    corners = [_share(*corner) for corner in itertools.product(*boxes)]
    if np.isnan(corners).any():  # the yardsticks may be one: the share may be anything
        return -math.inf, math.inf
    return min(corners), max(corners)


def _times(row: Any) -> tuple[float, float, float]:
    return row.seconds_per_draw, row.seconds_per_draw_low, row.seconds_per_draw_high


def _evaluations(row: Any) -> float:
    return float(row["layer_evaluations"] + row["loss_evaluations"])


def _ratio(difference: float, bias: float) -> float:
    """difference / bias², never below 0 (better from the start); infinite when there is no bias to overcome; NaN
    where the difference is."""
    if math.isnan(difference):
        return math.nan
    if difference <= 0:
        return 0.0
    return math.inf if bias == 0 else difference / bias**2
