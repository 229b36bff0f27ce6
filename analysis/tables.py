"""How tables are saved: csv and parquet, the same bytes from the same numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

MAX_TABLE_BYTES = 2**31  # of a file that is read


def without_timings(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the columns that differ between two runs of the same seed.

    Args:
        table: any; the names of its columns of timings begin with "seconds".

    Returns:
        The other columns.

    Examples:
        >>> list(without_timings(pd.DataFrame({"draws": [1], "seconds_per_draw": [0.5]})))
        ['draws']
    """
    return table[[column for column in table if not str(column).startswith("seconds")]]


def table_files(name: str, table: pd.DataFrame) -> dict[str, bytes]:
    """A table as csv and as parquet.

    Args:
        name: of the table.
        table: its index is left out. A text that a spreadsheet would take for a formula has an apostrophe before it in
            the csv, since names may be a stranger's.

    Returns:
        Contents by the file's name.

    Examples:
        >>> table_files("fits", pd.DataFrame({"layer": ["1"]}))["fits.csv"]
        b'layer\\n1\\n'
    """
    return {
        f"{name}.csv": csv_of(table).encode(),
        f"{name}.parquet": table.to_parquet(index=False),
    }


def csv_of(table: pd.DataFrame) -> str:
    """A table as csv, without formulas.

    Args:
        table: its index is left out.

    Returns:
        The text.

    Examples:
        >>> csv_of(pd.DataFrame({"estimator": ["=1+1"], "bias": [-0.5]}))
        "estimator,bias\\n'=1+1,-0.5\\n"
    """
    texts = [column for column in table if not pd.api.types.is_numeric_dtype(table[column])]
    return table.assign(**{column: table[column].map(_defused) for column in texts}).to_csv(index=False)


def _defused(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text begins with that a spreadsheet computes."""
