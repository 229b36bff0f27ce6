"""`gradeval baseline`: keep the few kilobytes of a run that `gradeval compare` needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradeval.program.terminal import say


def baseline_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a saved run.")],
    out: Annotated[Path, typer.Option(help="The file to write; an older baseline of that name is replaced.")] = Path(
        "gradeval-baseline.json"
    ),
) -> None:
    """Write the few kilobytes of a run that `gradeval compare` needs, in a file to be committed."""
    from gradeval.analysis.comparison.baseline import Baseline

    path = Baseline.read(folder).save(out)
    say(f"{path}: {path.stat().st_size / 1000:.1f} kB")
