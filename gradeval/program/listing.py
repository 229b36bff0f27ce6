"""`gradeval list`: problems and estimators with their facts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gradeval.program.tables import Cell, show_table
from gradeval.program.terminal import safe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradeval.estimators import Facts
    from gradeval.problems.catalogue import RegisteredProblem


def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Problems and estimators, with their facts and sources."""
    from gradeval.estimators import BUILT_IN
    from gradeval.problems.catalogue import PROBLEMS

    if as_json:
        facts = {
            "problems": [asdict(row) for row in PROBLEMS.values()],
            "estimators": [row.as_data() for row in BUILT_IN.values()],
        }
        print(json.dumps(facts, indent=1))
        return

    show_lists(PROBLEMS.values(), BUILT_IN.values())


def show_lists(problems: Iterable[RegisteredProblem], estimators: Iterable[Facts]) -> None:
    """The tables of problems and estimators."""
    from rich.console import Console
    from rich.padding import Padding

    from gradeval.estimators.facts import ANY_LOSS

    console = Console()
    columns: dict[str, Cell] = {"name": Cell.WORD, "what": Cell.PROSE, "source": Cell.PROSE}
    show_table("Problems", columns, [(row.name, row.description, row.source) for row in problems])
    for row in estimators:
        name = f"{row.name} (= {', '.join(row.aliases)})" if row.aliases else row.name
        claims = ("unbiased" if row.unbiased else "biased", f"∇f {'needed' if row.differentiable else 'not needed'}")
        costs = f"layers {row.layer_evaluations}, losses {row.loss_evaluations}"
        console.print(safe(name), style="bold", highlight=False)
        only = [] if row.loss == ANY_LOSS else [f"only for {row.loss}"]
        facts = "; ".join((*only, *claims, row.randomness, costs, f"head: {row.head}", *filter(None, [row.defaults])))
        for text in (facts, row.source):
            console.print(Padding(safe(text), (0, 0, 0, 2)), highlight=False)
    console.print(
        "layers, losses: evaluations of a layer and of the loss per draw and point; L layers, n widths, K samples."
    )
    console.print("Your own: module:name or file.py:name. Problem files: see README.")
