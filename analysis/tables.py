"""How tables are saved: csv and parquet, the same bytes from the same numbers."""

from __future__ import annotations

import pandas as pd


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
        table: its index is left out.

    Returns:
        Contents by the file's name.

    Examples:
        >>> table_files("fits", pd.DataFrame({"layer": ["1"]}))["fits.csv"]
        b'layer\\n1\\n'
    """
    return {
        f"{name}.csv": table.to_csv(index=False).encode(),
        f"{name}.parquet": table.to_parquet(index=False),
    }
