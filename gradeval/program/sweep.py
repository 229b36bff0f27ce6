"""`gradeval sweep`: estimators on many networks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradeval.errors import Incomplete
from gradeval.program.budget import Budget, MaxSeconds, Yes
from gradeval.program.options import sigterm_as_ctrl_c
from gradeval.program.tables import Cell, show_table
from gradeval.program.terminal import say

if TYPE_CHECKING:
    from gradeval.analysis.sweep import Sweep


def sweep_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="A TOML file: \\[problem] holds the options of a problem, and every combination of those that are "
            "lists is a network; \\[evaluate] holds estimators, draws, seed and exact."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; what is done there is kept. The file's name without .toml if not given."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; results do not depend on it. One per core if not given.")
    ] = None,
    yes: Yes = False,
    max_seconds: MaxSeconds = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the regressions as JSON on standard output.")] = False,
) -> None:
    """Evaluate estimators on many networks: one table, regressions on width and depth, figures."""
    from gradeval.program.progress import Lines, TerminalProgress
    from gradeval.studies.sweeps import run_sweep

    folder = out or Path(file.stem)
    budget = Budget(yes, max_seconds, "fewer cells or draws in the file")
    with sigterm_as_ctrl_c(), TerminalProgress(lines=Lines.AT_START, budget=budget) as progress:
        try:
            found = run_sweep(file, folder, workers=workers or os.cpu_count() or 1, progress=progress)
        except Incomplete as error:
            message = f"{error} Repeat the command with --out {folder} to resume."
            raise Incomplete(message, exit_code=error.exit_code) from None
    with sigterm_as_ctrl_c():
        _show_with_figures(found, folder, as_json)


def report_sweep(folder: Path, as_json: bool = False) -> None:
    """Make tables and figures of a saved sweep from the cells that are done, without evaluating, and show them."""
    from gradeval.folder_lock import FolderLock
    from gradeval.studies.sweeps import SWEEP_FILE, rebuild_sweep, sweep_status

    with FolderLock(folder, SWEEP_FILE if (folder / SWEEP_FILE).exists() else "sweep.parquet"):
        for name in sweep_status(folder)["missing"]:
            say(f"missing, or damaged: {name}", sys.stderr)
        _show_with_figures(rebuild_sweep(folder), folder, as_json)


def _show_with_figures(sweep: Sweep, folder: Path, as_json: bool = False) -> None:
    from gradeval.analysis.sweep import build_sweep_figures

    try:
        build_sweep_figures(sweep, folder)
    except KeyboardInterrupt:
        message = f"interrupted; the tables are kept in {folder}. `gradeval report {folder}` makes the figures."
        raise Incomplete(message, exit_code=130) from None
    tables = str((folder / "sweep.csv").resolve())
    if as_json:
        print(json.dumps({"tables": tables, "regressions": json.loads(sweep.regressions.to_json(orient="records"))}))
        return

    show_regressions(sweep)
    say(f"tables: {tables}")


def show_regressions(sweep: Sweep) -> None:
    """By how much accuracy changes with depth and width."""
    terms = {"depth": "one layer more", "log2_width": "twice the width"}
    rows = []
    for row in sweep.regressions.itertuples():
        value, low, high = (10**v for v in (row.slope, row.slope_low, row.slope_high))
        rows.append((row.measure, row.estimator, terms[row.term], f"{value:.3g} [{low:.3g}, {high:.3g}]"))
    columns: dict[str, Cell] = {"measure": Cell.WORD, "estimator": Cell.NAME, "for": Cell.WORD, "factor": Cell.WORD}
    show_table("Factors [95 % intervals] with nets as clusters", columns, rows)


def show_sweep_status(found: dict[str, Any]) -> None:
    """What `sweep_status` found in the folder of a sweep."""
    say(f"{found['folder']}, a sweep, {found['bytes'] / 1e6:.1f} MB: {found['done']} of {found['cells']} cells done")
    for name in found["missing"]:
        say(f"missing, or damaged: {name}")
    at_work = f"in use by {found['holder']}" if found["holder"] else "nobody is at work on it"
    say(f"{'complete' if found['complete'] else 'not complete'}; {at_work}")
