"""`gradeval cost`: what one draw costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradeval.files import CannotWrite, write_whole
from gradeval.program.budget import Budget, MaxSeconds, Yes
from gradeval.program.options import check_output
from gradeval.program.tables import Cell, show_table
from gradeval.program.terminal import say

if TYPE_CHECKING:
    import pandas as pd


def cost_command(
    problem: Annotated[
        str, typer.Argument(help="A registered problem (see `gradeval list`) or a problem file.")
    ] = "expclass",
    estimators: Annotated[str, typer.Option(help="Comma-separated specs, 'paper' or 'all' (but `exact`).")] = "all",
    growing: Annotated[
        str, typer.Option(help="Specs of which the growth with depth and width is measured; '' for none.")
    ] = "st,psa,leg,arm,ram",
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables and figure; nothing is written if not given.")
    ] = None,
    yes: Yes = False,
    max_seconds: MaxSeconds = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on standard output.")] = False,
) -> None:
    """Measure what one draw costs: evaluations, FLOPs, time and memory beside back-propagation, and their growth."""
    if out:
        check_output(out)
    from gradeval.estimators import resolve, specs_of

    specs, growing_specs = specs_of(estimators), specs_of(growing)
    resolve([*dict.fromkeys([*specs, *growing_specs])])  # unknown ones are refused before any work

    from gradeval.analysis.scaling import fit_exponents, save_scaling
    from gradeval.problems.catalogue import load_problem
    from gradeval.program.progress import Lines, TerminalProgress
    from gradeval.studies.costs import cost_table, scaling_table

    budget = Budget(yes, max_seconds, "fewer --estimators or a smaller problem")
    with TerminalProgress(lines=Lines.AT_START, budget=budget) as progress:
        subject = load_problem(problem, progress=progress)
        tables = {"cost": cost_table(subject, specs, seed=seed, progress=progress)}
        if growing_specs:
            tables["scaling"] = scaling_table(growing_specs, seed=seed, progress=progress)
            tables["exponents"] = fit_exponents(tables["scaling"])
    if out:
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, table in tables.items():
                write_whole(out / f"{name}.csv", table.to_csv(index=False).encode())
            if growing_specs:
                save_scaling(tables["scaling"], tables["exponents"], out)
        except OSError as error:
            raise CannotWrite(out, error) from None
    if as_json:
        print(json.dumps({name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}))
        return

    show_cost(tables["cost"], tables.get("exponents"))
    if out:
        say(f"tables and figure: {out.resolve()}")


def show_cost(costs: pd.DataFrame, exponents: pd.DataFrame | None) -> None:
    """Show what one draw costs, and the exponents of its growth where they were fitted."""
    from rich.console import Console

    from gradeval.analysis.scaling import are_supported

    console = Console()
    headings = ("layers", "losses", "FLOPs", "× FLOPs", "ms", "× time", "KiB", "× memory")
    columns: dict[str, Cell] = {"estimator": Cell.NAME} | dict.fromkeys(headings, Cell.NUMBER)
    rows = []
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
        rows.append((row.estimator, *numbers))
    show_table("One draw of the gradient; × is times back-propagation, in this run", columns, rows)
    console.print("Layers, losses: evaluations per point. FLOPs: of products and elementwise. Memory: of new tensors.")
    if exponents is None:
        return
    names = {"evaluations": "evaluations", "flops": "FLOPs", "seconds": "time"}
    found = exponents.assign(supported=are_supported(exponents)).set_index(["estimator", "axis", "quantity"])
    for axis in ("depth", "width"):
        fits = []
        for name in exponents["estimator"].unique():
            cells = [name]
            for quantity in names:
                *ends, supported = found.loc[(name, axis, quantity)]
                p, low, high = (round(value, 3) + 0.0 for value in ends)  # no −0
                cells.append(f"{p:.2f} [{low:.2f}, {high:.2f}]" if supported else "–")
            fits.append(cells)
        growth: dict[str, Cell] = {"estimator": Cell.NAME} | dict.fromkeys(names.values(), Cell.NUMBER)
        show_table(f"Growth with {axis}: cost ~ {axis}ᵖ, p [interval]", growth, fits)
    if not found["supported"].all():
        console.print("–: the data support no exponent, its interval is wider than 1. Repeat it on a quieter machine.")
