"""`gradeval compare`: what changed between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradeval.errors import GradevalError

if TYPE_CHECKING:
    from gradeval.analysis.comparison.compare import Comparison


def compare_command(
    old: Annotated[Path, typer.Argument(help="The folder of a run, or a baseline file.")],
    new: Annotated[Path, typer.Argument(help="The same, of the run to be judged.")],
    alpha: Annotated[float, typer.Option(help="Probability, at most, of any finding where nothing changed.")] = 0.001,
    tolerance: Annotated[
        float, typer.Option(help="Too small to matter: share of the exact gradient's norm, cosine, share of variance.")
    ] = 0.02,
    cost_factor: Annotated[float, typer.Option(help="By which the time may grow; inf compares no times.")] = 2.0,
    reference: Annotated[
        str | None, typer.Option(help="Estimator whose time is the unit; st, or the fastest, if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on standard output.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a CI's summary.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML to this file.")] = None,
) -> None:
    """What changed between two runs in bias, variance, cosine and cost; exit 1 on a regression."""
    if as_json and as_markdown:
        raise GradevalError("--json and --markdown exclude each other.")
    from gradeval.analysis.comparison.compare import Baseline
    from gradeval.analysis.comparison.compare import compare as compare_baselines

    comparison = compare_baselines(
        Baseline.read(old),
        Baseline.read(new),
        alpha=alpha,
        tolerance=tolerance,
        cost_factor=cost_factor,
        reference=reference,
    )
    if junit:
        try:
            junit.write_text(comparison.to_junit(), encoding="utf-8")
        except OSError as error:
            raise GradevalError(f"cannot write {junit}: {error.strerror}.") from None
    if as_json or as_markdown:
        print(comparison.to_json() if as_json else comparison.to_markdown(), end="\n" if as_json else "")
    else:
        show_comparison(comparison)
    if len(comparison.regressions):
        raise typer.Exit(1)


def show_comparison(comparison: Comparison) -> None:
    """What changed, the answer and the notes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from gradeval.analysis.comparison.compare import cells

    console = Console()
    if len(comparison.changed):
        table = Table(title=f"Changed on {escape(comparison.problem)}", title_justify="left")
        table.add_column("estimator", overflow="fold")
        for column in ("layer", "measure"):
            table.add_column(column, no_wrap=True)
        for column in ("old", "new", "change", "p (adj.)"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for row in comparison.changed.itertuples():
            table.add_row(*map(escape, cells(row)))
        console.print(table)
    console.print(comparison.answer, markup=False, highlight=False)
    for note in comparison.notes:
        console.print(note, markup=False, highlight=False)
