"""`gradeval baseline`: keep the few kilobytes of a run that `gradeval compare` needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gradeval.program.terminal import say


def baseline_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a saved run.")],
    out: Annotated[Path, typer.Option(help="The file to write; an older baseline of that name is replaced.")] = Path(
        "gradeval-baseline.json"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print path and size as JSON on standard output.")] = False,
) -> None:
    """Write the few kilobytes of a run that `gradeval compare` needs, in a file to be committed."""
    from gradeval.analysis.comparison.baseline import Baseline

    path = Baseline.read(folder).save(out)
    if as_json:
        print(json.dumps({"baseline": str(path.resolve()), "bytes": path.stat().st_size}))
        return
    say(f"{path}: {path.stat().st_size / 1000:.1f} kB")
