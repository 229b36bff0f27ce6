"""`gradeval check`: a verdict on an estimator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gradeval.program.budget import Budget, MaxSeconds, Yes
from gradeval.program.options import whole_number
from gradeval.program.tables import Cell, show_sections
from gradeval.program.terminal import safe, visible

if TYPE_CHECKING:
    from gradeval.checking.verdict import Verdict


def check_command(
    estimator: Annotated[
        str, typer.Argument(help="Spec of a built-in estimator, or module:name or file.py:name (which runs that code).")
    ],
    unbiased: Annotated[
        bool | None, typer.Option(help="Check that it is unbiased. Default: if it claims to be.")
    ] = None,
    max_relative_bias: Annotated[
        float | None, typer.Option(help="Upper bound for the relative bias of every layer.")
    ] = None,
    min_cosine: Annotated[
        float | None, typer.Option(help="Lower bound for the cosine between mean and exact gradient of every layer.")
    ] = None,
    max_relative_variance: Annotated[
        float | None, typer.Option(help="Upper bound for the relative variance of one draw of every layer's gradient.")
    ] = None,
    problem: Annotated[
        list[str] | None,
        typer.Option(help="A problem of your own, a file or a registered name, beside the battery; may be repeated."),
    ] = None,
    equals: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Check that mean and variance are those of this estimator.")
    ] = None,
    equals_mean: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Check that the mean is that of this estimator.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Probability of any false alarm, in all tests together.")] = 1e-6,
    detect: Annotated[
        float, typer.Option(help="Relative bias of a layer that must be found with probability 0.99.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    max_draws: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="INTEGER",
            help="Maximum number of draws on one problem; if not given, 8,388,608, or for code that must be run in a "
            "loop as many as 32,768 calls give.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of threads; the verdict does not depend on it. One per core if not given."),
    ] = None,
    yes: Yes = False,
    max_seconds: MaxSeconds = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON on standard output.")] = False,
) -> None:
    """Check an estimator against exact gradients. Exit code: 0 holds, 1 fails, 2 unusable input, 3 undecided."""
    from gradeval.program.progress import Lines, TerminalProgress

    budget = Budget(yes, max_seconds, "a smaller --max-draws or a larger --detect")
    with TerminalProgress(lines=Lines.NEVER, transient=True, budget=budget) as progress:
        from gradeval.checking.procedure import check as run_check
        from gradeval.problems.catalogue import load_problem

        verdict = run_check(
            estimator,
            further=[load_problem(name, progress=progress) for name in problem or ()],
            unbiased=unbiased,
            max_relative_bias=max_relative_bias,
            min_cosine=min_cosine,
            max_relative_variance=max_relative_variance,
            equals=equals,
            equals_mean=equals_mean,
            alpha=alpha,
            detect=detect,
            seed=seed,
            max_draws=max_draws,
            workers=workers,
            progress=progress,
        )
    if as_json:
        print(json.dumps(verdict.as_dict()))
    else:
        show_verdict(verdict)
    raise typer.Exit(verdict.exit_code)


def show_verdict(verdict: Verdict) -> None:
    """Print a verdict: its diagnosis, table and guarantee, and last the headline again.

    Args:
        verdict: of `check`. Where rows fail, only those are printed.
    """
    from rich.console import Console
    from rich.padding import Padding

    console = Console()

    def line(text: str, style: str | None = None) -> None:
        console.print(visible(text), markup=False, highlight=False, style=style)

    line(verdict.headline, "bold")
    for text in verdict.diagnosis:
        console.print(Padding(safe(text), (0, 0, 0, 2)), highlight=False)
    if len(verdict.table):
        rows = verdict.failing if len(verdict.failing) else verdict.table
        headings = ("layer", "scale", "cosine", "difference" if verdict.against else "bias", "variance")
        columns: dict[str, Cell] = {**dict.fromkeys(headings, Cell.NUMBER), "verdict": Cell.WORD}
        sections: dict[str, list[tuple[str, ...]]] = {}
        for problem, group in rows.groupby("problem", sort=False):
            first = group.iloc[0]
            how = f"{first.draws:,} draws" if first.draws else "exact"
            own = sections.setdefault(f"{problem}: {how}, value {first.value_error:+.1e}", [])
            for row in group.itertuples():
                bias = f"{row.relative_bias:.3g}"
                if row.draws:
                    bias += f" [{row.relative_bias_low:.2g}, {row.relative_bias_high:.2g}]"
                variance = f"{row.variance_ratio if verdict.against else row.relative_variance:.3g}"
                own.append((row.layer, f"{row.scale:.4g}", f"{row.cosine:.4f}", bias, variance, str(row.verdict)))
        print()
        show_sections(_caption(verdict), columns, sections)
    for note in verdict.notes:
        line(f"note: {note}")
    line(verdict.guarantee)
    line(verdict.headline, "bold")


def _caption(verdict: Verdict) -> str:
    """What the table's figures are relative to."""
    if other := verdict.against:
        return (
            f"Scale, cosine and difference of the mean are against E[g] of {other}, relative to its norm; variance: "
            f"relative to that of {other}; value: (E[value] − E[value] of {other})/|J|"
        )
    return "Bias and variance are relative to the exact gradient's norm and its square; value: (E[value] − J)/|J|"
