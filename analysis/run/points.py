"""The data points that a run keeps and draws: of very many some thousand, so that files stay small."""

from __future__ import annotations

import numpy as np
import pandas as pd

MOST_DRAWN = 2000


def some_points(points: pd.DataFrame, most: int = MOST_DRAWN) -> pd.DataFrame:
    """The points themselves, or of more than ``most`` some from every class, evenly over the rows.

    Args:
        points: a row each, with its ``target``.
        most: about how many are kept.

    Returns:
        The rows that are kept, in their order; of every class its share, and at least one.

    Examples:
        >>> table = pd.DataFrame({"x": range(10), "target": [1] * 8 + [-1] * 2})
        >>> some_points(table, most=5)["x"].tolist()
        [0, 2, 5, 7, 8]
    """
    if len(points) <= most:
        return points
    kept = []
    for rows in points.groupby("target").indices.values():
        count = max(1, round(most * len(rows) / len(points)))
        kept.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(int)])
    return points.iloc[np.sort(np.concatenate(kept))].reset_index(drop=True)
