"""Estimators compared in pairs, seed by seed: runs of one seed share initial parameters, order of data and chance.

What a seed makes of a run (a lucky start) is then in both runs of a pair and falls out of their difference, so that its
interval is narrower than that of two means which are compared as if their seeds were not the same.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from gradeval.analysis.hypotheses import holm
from gradeval.analysis.statistics import ENDS, UNKNOWN, Interval, mean_interval

FAMILY_RATE = 0.05
DIFFERENCE_COLUMNS = [
    *("split", "predictor", "measure", "first", "second", "seeds"),
    *(f"difference{end}" for end in ENDS),
    *("pvalue", "pvalue_adjusted", "better"),
]


def paired_differences(predictions: pd.DataFrame) -> pd.DataFrame:
    """Compare every two estimators at their common seeds.

    Args:
        predictions: one row per estimator × seed × split × predictor, with loss and accuracy.

    Returns:
        One row per split × predictor × measure (loss, accuracy) × pair. difference: the mean over common seeds of
        first − second, with its paired 95 % Student interval; pvalue of the paired t test; pvalue_adjusted by Holm's
        method over the pairs of the same split, predictor and measure; better: the estimator that is better at a
        family-wise error rate of 5 %, empty where it is undecided.

    Examples:
        >>> rows = [("a", 0, 1.0), ("a", 1, 5.0), ("a", 2, 9.0), ("b", 0, 2.0), ("b", 1, 6.01), ("b", 2, 9.99)]
        >>> table = pd.DataFrame(rows, columns=["estimator", "seed", "loss"])
        >>> pairs = paired_differences(table.assign(split="train", predictor="expected", accuracy=math.nan))
        >>> pairs[["first", "second", "difference", "better"]].values.tolist()
        [['a', 'b', -1.0, 'a']]
    """
    rows: list[dict[str, Any]] = []
    for (split, predictor), group in predictions.groupby(["split", "predictor"], sort=False):
        for measure, sign in (("loss", 1), ("accuracy", -1)):
            runs = group.pivot(index="seed", columns="estimator", values=measure)
            names = [name for name in dict.fromkeys(group["estimator"]) if runs[name].notna().any()]
            found = [
                {"split": split, "predictor": predictor, "measure": measure, "first": first, "second": second}
                | _difference((runs[first] - runs[second]).dropna().to_numpy(float))
                for first, second in itertools.combinations(names, 2)
            ]
            adjusted = holm([row["pvalue"] for row in found]).tolist()
            for row, pvalue in zip(found, adjusted, strict=True):
                first_is_better = sign * row["difference"] < 0
                known = pvalue <= FAMILY_RATE
                better = (row["first"] if first_is_better else row["second"]) if known else ""
                rows.append(row | {"pvalue_adjusted": pvalue, "better": better})
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)


def _difference(differences: np.ndarray) -> dict[str, Any]:
    """The mean of paired differences with its interval and the p-value of Student's test."""
    count = len(differences)
    mean = float(differences.mean()) if count else math.nan
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    interval = mean_interval(mean, error, count) if count else UNKNOWN
    if count > 1 and not error > 1e-12 * max(abs(mean), 1e-300):
        # all differences are the same: none at all, or one that hardly any number of seeds says something about
        interval, pvalue = Interval(mean, math.nan, math.nan), 1.0 if mean == 0 else math.nan
    else:
        pvalue = 2 * float(student.sf(abs(mean) / error, count - 1)) if count > 1 else math.nan
    return {"seeds": count} | interval.columns("difference") | {"pvalue": pvalue}


def against(pairs: pd.DataFrame, name: str, split: str, predictor: str, measure: str = "loss") -> pd.DataFrame:
    """What the others differ from one estimator by.

    Args:
        pairs: of `paired_differences`.
        name: of the one estimator.
        split, predictor, measure: of the rows wanted.

    Returns:
        One row per other estimator: its name, other − name with its interval, the adjusted p-value and who is better.
    """
    which = (pairs["split"] == split) & (pairs["predictor"] == predictor) & (pairs["measure"] == measure)
    rows = pairs[which & ((pairs["first"] == name) | (pairs["second"] == name))].copy()
    turned = rows["first"] == name
    rows["estimator"] = rows["second"].where(turned, rows["first"])
    middle, low, high = (f"difference{end}" for end in ENDS)
    rows.loc[turned, [middle, low, high]] = -rows.loc[turned, [middle, high, low]].to_numpy()
    return rows[["estimator", "seeds", middle, low, high, "pvalue_adjusted", "better"]].reset_index(drop=True)
