"""`gradeval sweep`: estimators on many networks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gradeval.analysis.sweep import Sweep


def sweep_command(
    file: Annotated[
        Path, typer.Argument(help="A TOML file: [problem] with options, lists of which are crossed; [evaluate].")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; what is done there is kept. The file's name without .toml if not given."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; results do not depend on it. One per core if not given.")
    ] = None,
) -> None:
    """Evaluate estimators on many networks; one table, regressions on width and depth, figures."""
    from gradeval.analysis.sweep import build
    from gradeval.studies.sweeps import run_sweep

    folder = out or Path(file.stem)
    with training_table_progress() as progress:
        found = run_sweep(file, folder, workers=workers or os.cpu_count() or 1, progress=progress)
    build(found, folder)
    show_regressions(found)
    print(f"tables: {(folder / 'sweep.csv').resolve()}")


def show_regressions(sweep: Sweep) -> None:
    """By how much accuracy changes with depth and width."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    terms = {"depth": "one layer more", "log2_width": "twice the width"}
    table = Table(title="Factors [95 % intervals] with nets as clusters", title_justify="left")
    for column in ("measure", "estimator", "for", "factor"):
        table.add_column(column, overflow="fold")
    for row in sweep.regressions.itertuples():
        value, low, high = (10**v for v in (row.slope, row.slope_low, row.slope_high))
        text = escape(f"{value:.3g} [{low:.3g}, {high:.3g}]")
        table.add_row(row.measure, escape(row.estimator), terms[row.term], text)
    Console().print(table)
