"""Tables as files."""

from __future__ import annotations

import io

import pandas as pd

from gradeval.analysis.tables import csv_of, table_files


def test_no_name_is_a_formula_in_a_spreadsheet() -> None:
    """Numbers stay numbers, also negative ones; the parquet has the names as they are."""
    names = ["=cmd|'/c calc'!A0", "+1", "-x", "@SUM(A1)", "\t=1", "st", "concrete:temperature=0.1"]
    table = pd.DataFrame({"estimator": names, "bias": [-1.5, *range(6)], "draws": range(-3, 4)})
    found = pd.read_csv(io.StringIO(csv_of(table)))
    assert list(found["estimator"]) == [f"'{name}" for name in names[:5]] + names[5:]
    pd.testing.assert_frame_equal(found[["bias", "draws"]], table[["bias", "draws"]], check_dtype=False)
    files = table_files("x", table)
    assert list(pd.read_parquet(io.BytesIO(files["x.parquet"]))["estimator"]) == names
