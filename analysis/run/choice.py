"""Which estimator to take at which budget, of draws and of seconds: the one with the least error, and its rivals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.numbers import duration
from gradeval.analysis.run.pairs import ROUNDING
from gradeval.analysis.statistics import ENDS, LEVEL, Array

BUDGETS = {"draws": (1, 10, 100, 1000, 10_000), "seconds": (1e-3, 1e-2, 0.1, 1.0, 10.0)}
"""The budgets of a choice by their unit."""
CHOICE_COLUMNS = [
    *("layer", "unit", "budget", "estimator", "draws", *(f"relative_rmse{end}" for end in ENDS), "exact"),
    *("verdict", "rivals"),
]
WHOLE = 1 + 1e-9  # a draw that fits into a budget but for rounding fits


def choice_table(best: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The estimator with the least RMSE(M) = √(bias² + variance/M) for every layer and budget, and its rivals.

    A budget of seconds pays for M = ⌊seconds/seconds a draw⌋ draws, another number for each estimator; one whose single
    draw costs more is no choice. Exact figures are used where they are known; an estimator that is known to be
    unbiased, exactly or by a claim that holds, has bias 0, as in `breakeven_table`.

    The interval combines the 95 % intervals of bias, variance and seconds at their worst, so it covers at least as
    often, and reaches as far as a bias that the run may have missed. That of one draw is the summary's. A rival is
    told apart from the first where the interval of the difference of their squared errors excludes zero: for one draw
    that in pairs, adjusted by Holm's method; for more draws the difference of the variances in pairs and of the
    biases at their worst; for seconds both intervals must be disjoint. Exact figures are compared as they are.

    Args:
        best: the summary of a run with the best known figures, see `best_known`.
        pairs: of the run, see `pair_table`.

    Returns:
        One row per layer and budget: the estimator, its number of draws, RMSE and interval, whether that is exact, its
        verdict, and the rivals that are not told apart from it, a list with the most accurate first. Where no draw fits
        into the budget, or the layer has no gradient, the estimator is empty.
    """
    rows = []
    for layer, group in best.groupby("layer", sort=False):
        figures, layer_pairs = _figures(group), pairs[pairs["layer"] == layer]
        for unit, budgets in BUDGETS.items():
            for budget in budgets:
                found = Contest.of(figures, unit, budget)
                rows.append({"layer": layer, "unit": unit, "budget": budget, **_outcome(found, layer_pairs)})
    return pd.DataFrame(rows, columns=CHOICE_COLUMNS)


@dataclass(frozen=True)
class Contest:
    """The estimators of one layer at one budget, the most accurate first.

    Attributes:
        figures: columns of the summary, of those that the budget pays for.
        draws: M, [estimators].
        square: RMSE² and its ends, [3, estimators].
        paired: whether all have the same M.
    """

    figures: dict[str, Array]
    draws: Array
    square: Array
    paired: bool

    @classmethod
    def of(cls, figures: dict[str, Array], unit: str, budget: float) -> Contest:
        """The contest at a budget.

        Args:
            figures: columns of the summary, of the rows of one layer.
            unit: a key of `BUDGETS`.
            budget: how much of it there is.

        Returns:
            The contest; it may be empty.
        """
        paired = unit == "draws"
        bias, variance = _with_ends(figures, "relative_bias"), _with_ends(figures, "relative_variance")
        draws = np.full_like(bias, float(budget)) if paired else draws_within(figures, budget)
        bias[0] = np.where(figures["unbiased"], 0.0, bias[0])
        # the worst ends: the most draws make the least error; nothing is divided by none
        square = bias**2 + np.maximum(variance, 0.0) / np.maximum(draws[[0, 2, 1]], 1.0)
        single = (draws == 1).all(0)
        known = _with_ends(figures, "relative_rmse") ** 2
        square = np.where(single, known, square)
        square[1] = np.minimum(square[1], square[0])
        possible = np.flatnonzero((draws[0] >= 1) & np.isfinite(square[0]))
        order = possible[np.argsort(square[0, possible], kind="stable")]
        ordered = {name: values[order] for name, values in figures.items()}
        return cls(ordered, draws[0, order], square[:, order], paired)


def draws_within(figures: dict[str, Array], seconds: float) -> Array:
    """How many draws fit into a time.

    Args:
        figures: columns of the summary.
        seconds: the time.

    Returns:
        Whole numbers, and their ends where the seconds of a draw have an interval, else NaN, [3, rows].
    """
    times = _with_ends(figures, "seconds_per_draw")[[0, 2, 1]]
    with np.errstate(divide="ignore"):
        found: Array = np.floor(seconds / times * WHOLE)
    return found


def _figures(group: pd.DataFrame) -> dict[str, Array]:
    """The columns that a contest looks at; numbers are NaN where an older run has none."""
    named: dict[str, Array] = {name: group[name].to_numpy() for name in ("estimator", "verdict")}
    named |= {name: group[name].to_numpy(bool) for name in ("exact", "unbiased")}
    for key in ("relative_bias", "relative_variance", "relative_rmse", "seconds_per_draw"):
        for name in (f"{key}{end}" for end in ENDS):
            named[name] = group[name].to_numpy(float) if name in group else np.full(len(group), math.nan)
    return named


def _with_ends(figures: dict[str, Array], key: str) -> Array:
    """A figure and the ends of its interval, [3, rows]."""
    return np.stack([figures[f"{key}{end}"] for end in ENDS])


def _outcome(found: Contest, pairs: pd.DataFrame) -> dict[str, Any]:
    """The first of a contest and its rivals."""
    if not len(found.draws):
        return {"estimator": "", "draws": math.nan, "exact": False, "verdict": "", "rivals": []}
    first = {name: values[0] for name, values in found.figures.items()}
    errors = {f"relative_rmse{end}": math.sqrt(found.square[i, 0]) for i, end in enumerate(ENDS)}
    exact = bool(first["exact"]) and (found.paired or bool(first["relative_variance"] == 0))
    return {
        **{"estimator": first["estimator"], "draws": found.draws[0], "exact": exact, "verdict": first["verdict"]},
        **errors,
        "rivals": list(_rivals(found, pairs)),
    }


def _rivals(found: Contest, pairs: pd.DataFrame) -> Iterator[str]:
    """Those that are not told apart from the first of a contest."""
    names = found.figures["estimator"]
    known = _pairs_of(names[0], pairs) if found.paired else {}
    bias = _with_ends(found.figures, "relative_bias") ** 2
    certain = found.figures["exact"] & (found.paired | (found.figures["relative_variance"] == 0))
    for place, other in enumerate(names[1:], 1):
        mine, its = found.square[:, 0], found.square[:, place]
        if certain[0] and certain[place]:
            apart = its[0] - mine[0] > ROUNDING * mine[0]
        elif other not in known:
            apart = its[1] > mine[2]
        elif found.draws[0] == 1:
            apart = known[other][1] < 1 - LEVEL
        else:  # the lower end of the difference, the other's less that of the first
            apart = bias[1, place] - bias[2, 0] + known[other][0] / found.draws[0] > 0
        if not apart:
            yield other


def _pairs_of(name: str, pairs: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """By every other estimator: the lower end of its variance less that of ``name``, and the adjusted p-value."""
    ahead, behind = pairs[pairs["two"] == name], pairs[pairs["one"] == name]
    found = dict(zip(ahead["one"], zip(ahead["variance_low"], ahead["pvalue_adjusted"], strict=True), strict=True))
    less = -behind["variance_high"] if len(behind) else []
    return found | dict(zip(behind["two"], zip(less, behind["pvalue_adjusted"], strict=True), strict=True))


def budget_words(unit: str, budget: float) -> str:
    """A budget as it is written.

    Args:
        unit: a key of `BUDGETS`.
        budget: one of its values.

    Returns:
        The words.

    Examples:
        >>> budget_words("draws", 1), budget_words("draws", 1000), budget_words("seconds", 0.01)
        ('1 draw', '1,000 draws', '10 ms')
    """
    if unit == "draws":
        return f"{budget:,.0f} draw{'s' if budget > 1 else ''}"
    return duration(budget, digits=1)


def choice_lines(choice: pd.DataFrame) -> list[str]:
    """The choice for the gradient of all layers, of draws and of seconds: a heading each, and a line for each choice.

    Args:
        choice: by `choice_table`.

    Returns:
        Budgets in a row with the same estimator are written as one, with the most rivals among them.

    Examples:
        >>> rows = [["all", "draws", m, "st", m, 1.0, 1.0, 1.0, True, "biased", ["arm"]] for m in (1, 10)]
        >>> choice_lines(pd.DataFrame(rows, columns=CHOICE_COLUMNS))
        ['least RMSE by draws:', '  1 draw to 10 draws: st (1 not told apart)']
    """
    lines = []
    for unit, rows in choice[choice["layer"] == "all"].groupby("unit", sort=False):
        lines.append(f"least RMSE by {'draws' if unit == 'draws' else 'time'}:")
        for name, run in itertools.groupby(rows.to_dict("records"), key=lambda row: row["estimator"]):
            same = list(run)
            ends = dict.fromkeys(budget_words(str(unit), row["budget"]) for row in (same[0], same[-1]))
            most = max(len(row["rivals"]) for row in same)
            lines.append(f"  {' to '.join(ends)}: {name or 'none'}{f' ({most} not told apart)' if most else ''}")
    return lines
