"""`gradeval compare`: judge a run by an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradeval.errors import GradevalError
from gradeval.files import write_whole
from gradeval.program.tables import Cell, show_table
from gradeval.program.terminal import visible

if TYPE_CHECKING:
    from gradeval.analysis.comparison.changes import Comparison


def compare_command(
    old: Annotated[Path, typer.Argument(help="The folder of a run, or a baseline file.")],
    new: Annotated[Path, typer.Argument(help="The run to be judged: a folder or a baseline file, too.")],
    alpha: Annotated[
        float, typer.Option(help="The highest probability of reporting any change where there is none.")
    ] = 0.001,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Changes up to this size do not matter: of the bias relative to the exact gradient, of the cosine, "
            "and of the variance relative to the old one."
        ),
    ] = 0.02,
    cost_factor: Annotated[
        float, typer.Option(help="How many times longer a draw may take; with inf, times are not compared.")
    ] = 2.0,
    reference: Annotated[
        str | None,
        typer.Option(help="The estimator in whose draws times are measured; st, or else the fastest, if not given."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on standard output.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for the summary page of a CI run.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML to this file.")] = None,
) -> None:
    """Show what changed between two runs in bias, variance, cosine and cost; exit with 1 on a regression."""
    if as_json and as_markdown:
        raise GradevalError("--json and --markdown cannot be given together: choose one.")
    from gradeval.analysis.comparison.baseline import Baseline
    from gradeval.analysis.comparison.changes import compare

    comparison = compare(
        Baseline.read(old),
        Baseline.read(new),
        alpha=alpha,
        tolerance=tolerance,
        cost_factor=cost_factor,
        reference=reference,
    )
    if junit:
        try:
            junit.parent.mkdir(parents=True, exist_ok=True)
            write_whole(junit, comparison.to_junit().encode())
        except OSError as error:
            raise GradevalError(f"cannot write {junit}: {error.strerror}.") from None
    if as_json or as_markdown:
        lines = [comparison.to_json()] if as_json else comparison.to_markdown().splitlines()
        print(*map(visible, lines), sep="\n")
    else:
        show_comparison(comparison)
    if len(comparison.regressions):
        raise typer.Exit(1)


def show_comparison(comparison: Comparison) -> None:
    """Print what changed, the answer and the notes.

    Args:
        comparison: of two runs.
    """
    from rich.console import Console

    from gradeval.analysis.comparison.formats import cells

    console = Console()
    if len(comparison.changed):
        columns: dict[str, Cell] = {"estimator": Cell.NAME, "layer": Cell.WORD, "measure": Cell.WORD}
        columns |= dict.fromkeys(("old", "new", "change", "p (adj.)"), Cell.NUMBER) | {"verdict": Cell.WORD}
        show_table(f"Changed on {comparison.problem}", columns, map(cells, comparison.changed.itertuples()))
    for line in (comparison.answer, *comparison.notes):
        console.print(visible(line), markup=False, highlight=False)
