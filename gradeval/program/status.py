"""`gradeval status`: what a folder holds and who is at work on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def status_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What a run's folder holds: finished and damaged chunks, failures, and who is at work on it."""
    from gradeval.evaluation.status import run_status

    found = run_status(folder)
    if as_json:
        print(json.dumps(found, indent=1))
        return

    show_status(found)


def show_status(found: dict[str, Any]) -> None:
    """What a run's folder holds."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{found['folder']}, {found['bytes'] / 1e6:.1f} MB"), title_justify="left")
    table.add_column("estimator", overflow="fold")
    for column in ("chunks", "draws", "damaged"):
        table.add_column(column, justify="right")
    table.add_column("exact moments")
    table.add_column("failure", overflow="fold")
    for row in found["estimators"]:
        table.add_row(
            escape(row["estimator"]),
            f"{row['chunks']:,}/{row['chunks_planned']:,}",
            f"{row['draws']:,}/{row['draws_planned']:,}",
            str(len(row["damaged"])),
            "yes" if row["exact_moments"] else "",
            escape(row["failure"] or ""),
        )
    Console().print(table)
    at_work = f"in use by {found['holder']}" if found["holder"] else "nobody is at work on it"
    print(f"{'complete' if found['complete'] else 'not complete'}; {at_work}")
