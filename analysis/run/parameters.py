"""The hyper-parameters of the estimators of a run, as a table."""

from __future__ import annotations

from typing import Any

import pandas as pd


def parameter_table(manifest: dict[str, Any]) -> pd.DataFrame:
    """The hyper-parameters of all estimators of a run.

    Args:
        manifest: of the run.

    Returns:
        One row per estimator: its name, its family (what is left of its spec without hyper-parameters) and a column for
        each hyper-parameter that any of them has; NaN where it has not.
    """
    rows = [
        {"estimator": name, "family": facts.get("family", name.partition(":")[0]), **facts.get("settings", {})}
        for name, facts in manifest["estimators"].items()
    ]
    return pd.DataFrame(rows)
