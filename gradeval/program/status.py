"""`gradeval status`: what a folder holds and who is at work on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gradeval.program.sweep import show_sweep_status
from gradeval.program.tables import Cell, show_table
from gradeval.program.terminal import say
from gradeval.program.train import show_training_status


def status_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, a training or a sweep, finished or not.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What a folder holds: what is finished, damaged or failed, and who is at work on it."""
    found, show = _status_of(folder)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


def _status_of(folder: Path) -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
    """What the folder of a run, a training or a sweep holds, and the function that shows it."""
    from gradeval.studies.sweeps import is_sweep, sweep_status
    from gradeval.training.folder import is_training, training_status

    if is_training(folder):
        return training_status(folder), show_training_status
    if is_sweep(folder):
        return sweep_status(folder), show_sweep_status
    from gradeval.evaluation.status import run_status

    return run_status(folder), show_status


def show_status(found: dict[str, Any]) -> None:
    """What a run's folder holds."""
    columns: dict[str, Cell] = {"estimator": Cell.NAME} | dict.fromkeys(("chunks", "draws", "damaged"), Cell.NUMBER)
    rows = [
        (
            row["estimator"],
            f"{row['chunks']:,}/{row['chunks_planned']:,}",
            f"{row['draws']:,}/{row['draws_planned']:,}",
            str(len(row["damaged"])),
            "yes" if row["exact_moments"] else "",
            row["failure"] or "",
        )
        for row in found["estimators"]
    ]
    columns |= {"exact moments": Cell.WORD, "failure": Cell.PROSE}
    show_table(f"{found['folder']}, {found['bytes'] / 1e6:.1f} MB", columns, rows)
    for text in found["damaged"]:
        say(f"damaged: {text}")
    at_work = f"in use by {found['holder']}" if found["holder"] else "nobody is at work on it"
    say(f"{'complete' if found['complete'] else 'not complete'}; {at_work}")
