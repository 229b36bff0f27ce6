"""`gradeval reference NAME` and `gradeval atlas`: reference results, and the place of an estimator among them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gradeval.program.tables import Cell, show_table
from gradeval.program.terminal import say

if TYPE_CHECKING:
    import pandas as pd

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def reference_command(
    name: Annotated[str, typer.Argument(help="An entry of the atlas; `gradeval atlas` lists them.")],
    as_json: AsJson = False,
) -> None:
    """The exact value and gradient of a problem of the atlas, and the exact accuracy of every estimator on it."""
    from gradeval.atlas import load

    entry = load(name)
    if as_json:
        import msgspec

        print(msgspec.json.encode(entry.results).decode())
        return
    say(f"{entry.name}: {entry.description}{f' ({entry.source})' if entry.source else ''}")
    norms = ", ".join(f"{layer} {norm:.6g}" for layer, norm in entry.results.norms.items())
    say(f"J = {entry.results.value:.15g}; norms of its gradient: {norms}")
    table = entry.accuracy
    if not table.empty:
        _show(table[table["layer"] == "all"].drop(columns="layer").sort_values("relative_rmse"))


def atlas_command(
    own: Annotated[str, typer.Option("--with", help="An estimator, such as mine.py:mine: its place is shown.")] = "",
    as_json: AsJson = False,
) -> None:
    """The problems of the atlas; with an estimator, its exact accuracy on each beside that of the built-in ones."""
    from gradeval.atlas import load, names

    if own:
        rows = _places(own)
        print(json.dumps(rows.to_dict("records"), indent=1)) if as_json else _show(rows)
        return
    entries = [load(name) for name in names()]
    if as_json:
        print(json.dumps({entry.name: entry.description for entry in entries}, indent=1))
        return
    for entry in entries:
        say(f"{entry.name}: {entry.description}; {len(entry.results.accuracy)} estimators")


def _places(spec: str) -> pd.DataFrame:
    """The exact RMSE of one draw on every problem that the estimator can be enumerated on, and its rank."""
    import pandas as pd

    from gradeval.atlas import load, names
    from gradeval.atlas.make import accuracy_of
    from gradeval.errors import GradevalError
    from gradeval.estimators import get_estimator

    estimator, rows, why = get_estimator(spec), [], ""
    for entry in map(load, names()):
        if not entry.results.accuracy:
            continue
        try:
            bias, variance, _, cosine = accuracy_of(entry.problem, estimator)["all"]
        except GradevalError as error:
            why = str(error)
            continue
        if bias is None or variance is None:
            continue
        others = entry.accuracy.query("layer == 'all'")
        rmse = (bias**2 + max(variance, 0.0)) ** 0.5
        best = others.loc[others["relative_rmse"].idxmin()]
        place = f"{1 + int((others['relative_rmse'] < rmse * (1 - 1e-9)).sum())} of {len(others) + 1}"
        numbers = {"relative_bias": bias, "relative_variance": variance, "cosine": cosine, "relative_rmse": rmse}
        rows.append({"problem": entry.name, **numbers, "place": place, "best": best["estimator"]})
    if not rows:
        raise GradevalError(f"'{spec}' has no exact accuracy on any problem of the atlas: {why}")
    return pd.DataFrame(rows)


def _show(table: pd.DataFrame) -> None:
    from pandas.api.types import is_numeric_dtype

    kinds: dict[str, Cell] = {
        str(column).removeprefix("relative_"): Cell.NUMBER if is_numeric_dtype(table[column]) else Cell.NAME
        for column in table
    }
    rows = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in table.itertuples(index=False)]
    show_table("", kinds, rows)
