"""Bands of the figures along training: means over seeds with intervals in pairs, which stay where values can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from gradeval.analysis.statistics import Array, mean_interval

Scale = tuple[Callable[[Array], Array], Callable[[Array], Array]]
SCALES: dict[str, Scale] = {
    "log": (np.log, np.exp),
    "cosine": (lambda v: np.arctanh(np.clip(v, -1 + 1e-12, 1 - 1e-12)), np.tanh),
    "linear": (lambda v: v, lambda v: v),
}
"""How values are stretched before their error is taken, and back, so that bands stay where values can be."""


def paired_bands(rows: pd.DataFrame, x: str, column: str, scale: str) -> pd.DataFrame:
    """The mean over seeds of each estimator with a 95 % interval for comparing estimators.

    All estimators of a seed have its initial parameters and its order of data, so what a seed does to all of them is
    taken out: each value less the seed's mean over estimators (Cousineau, Tutorials in Quantitative Methods for
    Psychology 1, 2005, doi:10.20982/tqmp.01.1.p042), with the standard error times √(J/(J − 1)) for J estimators
    (Morey, ibid. 4, 2008, doi:10.20982/tqmp.04.2.p061). That is done on the stretched scale of `SCALES`, where the
    band is put around the mean.

    Args:
        rows: one per estimator, seed and place.
        x: the column with the place.
        column: of the values; rows without one are left out.
        scale: a key of `SCALES`.

    Returns:
        One row per estimator and place: ``mean``, ``low`` and ``high``; the ends are the mean where one seed is known.

    Examples:
        >>> table = [["st", 0, 1, 2.0], ["st", 1, 1, 3.0], ["arm", 0, 1, 4.0], ["arm", 1, 1, 6.0]]
        >>> rows = pd.DataFrame(table, columns=["estimator", "seed", "epoch", "objective"])
        >>> paired_bands(rows, "epoch", "objective", "log").round(2).values.tolist()
        [['st', 1, 2.5, 2.5, 2.5], ['arm', 1, 5.0, 5.0, 5.0]]
    """
    stretch, back = SCALES[scale]
    known = rows.dropna(subset=column)
    values = known[column].to_numpy(float)
    known = known.assign(value=stretch(values)).loc[np.isfinite(stretch(values))]
    common = known.groupby([x, "seed"])["value"].transform("mean")
    known = known.assign(own=known["value"] - common)
    rivals = known.groupby(x)["estimator"].transform("nunique")
    found = []
    for (name, place), own in known.groupby(["estimator", x], sort=False):
        mean, n, j = float(own[column].mean()), len(own), int(rivals[own.index[0]])
        low = high = mean
        if n > 1:
            part = own["own"] * (j / (j - 1)) ** 0.5 if j > 1 else own["value"]
            half = mean_interval(0.0, float(part.std(ddof=1)) / n**0.5, n).high
            low, high = (float(end) for end in back(stretch(np.array([mean])) + np.array([-half, half])))
        found.append([name, place, mean, low, high])
    return pd.DataFrame(found, columns=["estimator", x, "mean", "low", "high"])
