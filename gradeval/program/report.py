"""`gradeval report`: what is shown of a run, and made anew from what it saved."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from gradeval.program.sweep import report_sweep
from gradeval.program.tables import Cell, show_table
from gradeval.program.terminal import say
from gradeval.program.train import report_training

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation


def report_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, a training or a sweep.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Make tables, figures and report.html of a run, a training or a sweep anew, without sampling."""
    from gradeval.studies.sweeps import is_sweep
    from gradeval.training.folder import is_training

    if is_training(folder):
        report_training(folder, as_json)
        return
    if is_sweep(folder):
        report_sweep(folder, as_json)
        return
    from gradeval.analysis.run.evaluation import Evaluation
    from gradeval.analysis.run.folder import MANIFEST, check_run
    from gradeval.folder_lock import FolderLock

    check_run(folder)
    with FolderLock(folder, MANIFEST):
        evaluation = Evaluation.load(folder)
        evaluation.rewrite(folder)
        show_run(evaluation, folder, True, as_json)


def show_run(evaluation: Evaluation, folder: Path, report: bool, as_json: bool) -> None:
    """Write the report, unless only tables are wanted; print where it is and what it says in short, or as JSON."""
    where = {"folder": str(folder.resolve())}
    if report:
        from gradeval.analysis.run.report import build_report

        where = {"report": str(build_report(evaluation, folder).resolve())}
    if as_json:
        rows = json.loads(evaluation.summary.to_json(orient="records"))
        print(json.dumps({**where, "failures": evaluation.manifest["failures"], "summary": rows}))
        return
    show_summary(evaluation)
    say(": ".join(["report" if report else "tables", *where.values()]))


def show_summary(evaluation: Evaluation) -> None:
    """The ranked table of all layers together."""
    from gradeval.analysis.run.choice import choice_lines
    from gradeval.analysis.run.reference import reference_sentence
    from gradeval.analysis.run.summary import BiasVerdict

    best = evaluation.best
    rows = best[best["layer"] == "all"].sort_values("relative_rmse")
    title = "Relative to ‖∇J‖, all layers, one draw; and whether a claim of no bias holds"
    headings = ("RMSE", "bias", "95 % interval", "cosine", "µs/draw")
    columns: dict[str, Cell] = {"estimator": Cell.NAME} | dict.fromkeys(headings, Cell.NUMBER) | {"claim": Cell.WORD}
    shown = []
    for row in rows.itertuples():
        known = row.relative_bias_low == row.relative_bias == row.relative_bias_high
        shown.append(
            (
                row.estimator,
                f"{row.relative_rmse:.3g}",
                f"{row.relative_bias:.3g}",
                "exact" if known else f"{row.relative_bias_low:.3f}–{row.relative_bias_high:.3f}",
                f"{row.cosine:.3f}",
                f"{1e6 * row.seconds_per_draw:.0f}",
                BiasVerdict(row.verdict).short,
            )
        )
    show_table(title, columns, shown)
    width = shutil.get_terminal_size().columns
    sentence = wrap(reference_sentence(evaluation), width, break_long_words=False, break_on_hyphens=False)
    for line in [*choice_lines(evaluation.choice), *sentence]:
        say(line)
    for name, message in evaluation.manifest["failures"].items():
        say(f"{name}: FAILED, {message}", sys.stderr)
