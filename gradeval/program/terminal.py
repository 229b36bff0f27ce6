"""What the program shows on a terminal: progress on standard error, tables on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from gradeval.estimators import Facts
from gradeval.problems.catalogue import ProblemFacts

if TYPE_CHECKING:
    import pandas as pd

    from gradeval.analysis.comparison.compare import Comparison
    from gradeval.analysis.run.tables import Evaluation
    from gradeval.analysis.sweep import Sweep
    from gradeval.analysis.training import Training
    from gradeval.checking.procedure import Verdict


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{1e6 / task.speed:.0f} µs/draw")


class TerminalProgress:
    """A bar per estimator with its rate and the time left; plain lines where standard error is not a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self.bars = console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            disable=not self.bars,
        )
        self.task = TaskID(0)
        self.name, self.draws, self.began = "", 0, 0.0

    def __enter__(self) -> TerminalProgress:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def start(self, estimator: str, draws: int) -> None:
        self.name, self.draws, self.began = estimator, draws, time.perf_counter()
        self.task = self.progress.add_task(escape(f"{estimator:<26}"), total=draws)

    def advance(self, estimator: str, draws: int) -> None:
        self.progress.advance(self.task, draws)

    def finish(self, estimator: str, note: str = "") -> None:
        self.progress.update(self.task, completed=self.draws)
        seconds = time.perf_counter() - self.began
        if not self.bars:
            print(f"{self.name}: {self.draws:,} in {seconds:.1f} s", file=sys.stderr)
        if note:
            self.progress.console.print(f"{self.name}: {note}", markup=False, highlight=False)


@contextmanager
def training_progress() -> Iterator[Callable[[int, int], None]]:
    """A callback (epochs done, epochs in all) that shows a bar once it is called."""
    progress = Progress(
        TextColumn("training the network     "),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    task: TaskID | None = None

    def on_epoch(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            progress.start()
            task = progress.add_task("", total=total)
            if progress.disable:
                print(f"training the network for {total} epochs", file=sys.stderr)
        progress.update(task, completed=done)

    try:
        yield on_epoch
    finally:
        progress.stop()


@contextmanager
def check_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (what is done, done, total) that shows a bar; nothing where standard error is not a terminal."""
    progress = Progress(
        TextColumn("checking"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with progress:
        task = progress.add_task("", total=None)
        yield lambda text, done, total: progress.update(task, description=escape(text), completed=done, total=total)


def show_verdict(verdict: Verdict) -> None:
    """The diagnosis, the table (all of it, or the rows that fail), the guarantee, and last the verdict."""
    console = Console()

    def line(text: str, style: str | None = None) -> None:
        console.print(text, markup=False, highlight=False, style=style)

    line(verdict.headline, "bold")
    for text in verdict.diagnosis:
        console.print(Padding(escape(text), (0, 0, 0, 2)), highlight=False)
    if len(verdict.table):
        failing = verdict.table[verdict.table["verdict"].str.startswith("fails")]
        rows = failing if len(failing) else verdict.table
        line(
            "\nBias, variance: relative to the layer's exact gradient's norm, or its square; value: (E[value] − J)/|J|"
        )
        for problem, group in rows.groupby("problem", sort=False):
            first = group.iloc[0]
            how = f"{first.draws:,} draws" if first.draws else "exact"
            line(f"{problem}: {how}, value {first.value_error:+.1e}", "italic")
            table = Table(box=None, padding=(0, 2, 0, 0), show_header=first.name == rows.index[0])
            widths = {"layer": 5, "scale": 8, "cosine": 7, "bias": 24, "variance": 8}
            for name, width in widths.items():
                table.add_column(name, justify="right", min_width=width, no_wrap=True)
            table.add_column("verdict", no_wrap=True)
            for row in group.itertuples():
                bias = f"{row.relative_bias:.3g}"
                if row.draws:
                    bias += f" [{row.relative_bias_low:.2g}, {row.relative_bias_high:.2g}]"
                figures = (f"{row.scale:.4g}", f"{row.cosine:.4f}", bias, f"{row.relative_variance:.3g}")
                table.add_row(*map(escape, (row.layer, *figures, row.verdict)))
            console.print(table)
        print()
    for note in verdict.notes:
        line(f"note: {note}")
    line(verdict.guarantee)
    line(verdict.headline, "bold")


@contextmanager
def training_table_progress() -> Iterator[Callable[[str, str, int, int], None]]:
    """A callback (estimator, phase, epochs done, epochs in all) that keeps a bar for each estimator and phase."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[tuple[str, str], TaskID] = {}

    def advance(estimator: str, phase: str, done: int, total: int) -> None:
        key = (estimator, phase)
        if key not in tasks:
            tasks[key] = progress.add_task(escape(f"{estimator:<26} {phase:<9}"), total=total)
            if progress.disable:
                print(f"{estimator}: {phase}", file=sys.stderr, flush=True)
        progress.update(tasks[key], completed=done)

    with progress:
        yield advance


def show_training(training: Training) -> None:
    """Objective and test scores (of ensembles) of the trained networks, means over seeds with 95 % intervals."""
    summary = training.summary
    table = Table(title="Means over seeds [95 % intervals]", title_justify="left")
    table.add_column("estimator", overflow="fold")
    for column in ("rate", "training objective", "test loss", "test accuracy"):
        table.add_column(column, justify="right", overflow="fold")

    def cell(name: str, split: str, predictor: str, key: str, digits: int) -> str:
        mine = (summary["estimator"] == name) & (summary["split"] == split) & (summary["predictor"] == predictor)
        rows = summary[mine].dropna(subset=key)
        if rows.empty:
            return "–"
        value, low, high = (float(rows[f"{key}{end}"].iloc[0]) for end in ("", "_low", "_high"))
        return escape(f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")

    final = summary[(summary["split"] == "train") & (summary["predictor"] == "expected")].sort_values("loss")
    for row in final.itertuples():
        table.add_row(
            escape(row.estimator),
            f"{row.rate:.2g}",
            cell(row.estimator, "train", "expected", "loss", 4),
            cell(row.estimator, "test", "ensemble", "loss", 4),
            cell(row.estimator, "test", "ensemble", "accuracy", 3),
        )
    Console().print(table)


def show_regressions(sweep: Sweep) -> None:
    """By how much accuracy changes with depth and width."""
    terms = {"depth": "one layer more", "log2_width": "twice the width"}
    table = Table(title="Factors [95 % intervals] with nets as clusters", title_justify="left")
    for column in ("measure", "estimator", "for", "factor"):
        table.add_column(column, overflow="fold")
    for row in sweep.regressions.itertuples():
        value, low, high = (10**v for v in (row.slope, row.slope_low, row.slope_high))
        text = escape(f"{value:.3g} [{low:.3g}, {high:.3g}]")
        table.add_row(row.measure, escape(row.estimator), terms[row.term], text)
    Console().print(table)


def show_summary(evaluation: Evaluation) -> None:
    """The ranked table of all layers together."""
    best = evaluation.best
    rows = best[best["layer"] == "all"].sort_values("relative_rmse")
    title = "Relative to ‖∇J‖, all layers, one draw; and whether a claim of no bias holds"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("estimator", overflow="fold", min_width=min(24, max(map(len, rows["estimator"]), default=0)))
    for column in ("RMSE", "bias", "95 % interval", "cosine", "µs/draw"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("claim", min_width=len("biased"))
    for row in rows.itertuples():
        exact = row.relative_bias_low == row.relative_bias == row.relative_bias_high
        table.add_row(
            escape(row.estimator),
            f"{row.relative_rmse:.3g}",
            f"{row.relative_bias:.4f}",
            "exact" if exact else f"{row.relative_bias_low:.3f}–{row.relative_bias_high:.3f}",
            f"{row.cosine:.3f}",
            f"{1e6 * row.seconds_per_draw:.0f}",
            row.verdict.removeprefix("claim of no bias ").removesuffix(" exactly"),
        )
    Console().print(table)
    for name, message in evaluation.manifest["failures"].items():
        print(f"{name}: FAILED, {message}", file=sys.stderr)


def show_status(found: dict[str, Any]) -> None:
    """What a run's folder holds."""
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


def show_comparison(comparison: Comparison) -> None:
    """What changed, the answer and the notes."""
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


def show_cost(costs: pd.DataFrame, exponents: pd.DataFrame | None) -> None:
    """What one draw costs, and the exponents of its growth where they were fitted."""
    console = Console()
    table = Table(title="One draw of the gradient; × is times back-propagation, in this run", title_justify="left")
    table.add_column("estimator", overflow="fold")
    for column in ("layers", "losses", "FLOPs", "× FLOPs", "ms", "× time", "KiB", "× memory"):
        table.add_column(column, justify="right")
    for row in costs.itertuples():
        numbers = (
            *(
                f"{row.layer_evaluations:g}",
                f"{row.loss_evaluations:g}",
                f"{row.flops:.3g}",
                f"{row.relative_flops:.2f}",
            ),
            *(f"{1e3 * row.seconds:.3g}", f"{row.relative_seconds:.2f}"),
            *(f"{row.bytes / 1024:.0f}", f"{row.relative_bytes:.2f}"),
        )
        table.add_row(escape(row.estimator), *numbers)
    console.print(table)
    console.print("Layers, losses: evaluations per point. FLOPs: of products and elementwise. Memory: of new tensors.")
    if exponents is None:
        return
    table = Table(title=escape("Growth: cost ~ sizeᵖ, p [interval]"), title_justify="left")
    names = {"evaluations": "evaluations", "flops": "FLOPs", "seconds": "time"}
    table.add_column("estimator", overflow="fold")
    for axis in ("depth", "width"):
        for shown in names.values():
            table.add_column(f"{shown}, {axis}", justify="right")
    found = exponents.set_index(["estimator", "axis", "quantity"])
    for name in exponents["estimator"].unique():
        cells = []
        for axis in ("depth", "width"):
            for quantity in names:
                p, low, high = found.loc[(name, axis, quantity)].round(3) + 0.0
                cells.append(escape(f"{p:.2f} [{low:.2f}, {high:.2f}]"))
        table.add_row(escape(name), *cells)
    console.print(table)


def show_lists(problems: Iterable[ProblemFacts], estimators: Iterable[Facts]) -> None:
    """The tables of problems and estimators."""
    console = Console()
    table = Table(title="Problems", title_justify="left")
    for column in ("name", "what", "source"):
        table.add_column(column, overflow="fold")
    for problem in problems:
        table.add_row(problem.name, problem.description, problem.source)
    console.print(table)
    for row in estimators:
        name = f"{row.name} (= {', '.join(row.aliases)})" if row.aliases else row.name
        claims = ("unbiased" if row.unbiased else "biased", f"∇f {'needed' if row.differentiable else 'not needed'}")
        costs = f"layers {row.layer_evaluations}, losses {row.loss_evaluations}"
        console.print(escape(name), style="bold", highlight=False)
        facts = "; ".join((*claims, row.randomness, costs, *filter(None, [row.defaults])))
        for text in (facts, row.source):
            console.print(Padding(escape(text), (0, 0, 0, 2)), highlight=False)
    console.print(
        "layers, losses: evaluations of a layer and of the loss per draw and point; L layers, n widths, K samples."
    )
    console.print("Your own: module:name or file.py:name. Problem files: see README.")
