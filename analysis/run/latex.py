"""A run's accuracy as a LaTeX table (booktabs), for a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from gradeval.analysis.numbers import significant
from gradeval.errors import GradevalError, unknown_name

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation

TITLES = {
    "relative_rmse": "RMSE",
    "relative_bias": "bias",
    "relative_variance": "variance",
    "cosine": "cosine",
}
"""The columns that a LaTeX table may have, and their headings."""
ROUNDING = 1e-9  # exact figures that differ by less are the same
GROUPS = {True: "claims no bias", False: "makes no claim"}
SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
})  # fmt: skip


def latex_table(
    run: Evaluation,
    *,
    layer: str = "all",
    columns: Sequence[str] = tuple(TITLES),
    intervals: bool = True,
    grouped: bool = True,
) -> str:
    """Accuracy of one draw of every estimator, relative to the exact gradient, as a LaTeX table.

    A figure is bold unless another one is surely better: unless the whole 95 % interval of another is on its better
    side. Exact figures stand where they are known; their interval has no width. The table needs the package booktabs.

    Args:
        run: its tables are read.
        layer: whose gradient.
        columns: some of `TITLES`, in the order wanted.
        intervals: whether 95 % intervals stand behind the numbers.
        grouped: whether estimators that claim to be unbiased stand together, before the others.

    Returns:
        The text of the table, from ``\\begin{tabular}`` to its end.

    Raises:
        GradevalError: an unknown column or layer.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units=2, stage=0, points=4)
        >>> run = gradeval.evaluate(problem, "st, psa", draws=100)
        >>> print(run.latex(columns=["relative_bias"], grouped=False).splitlines()[4])
        psa & $\\mathbf{0}$ \\\\
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    for column in columns:
        if column not in TITLES:
            raise unknown_name("column of the LaTeX table", column, TITLES)
    if not columns:
        raise GradevalError(f"columns is empty: choose some of {', '.join(TITLES)}.")
    rows = run.best[run.best["layer"] == layer].sort_values("relative_rmse")
    if rows.empty:
        raise unknown_name("layer", layer, run.summary["layer"].unique())
    claims = [bool(run.manifest["estimators"][name]["unbiased_claim"]) for name in rows["estimator"]]
    cells = {"estimator": [str(name).translate(SPECIAL) for name in rows["estimator"]]}
    cells |= {TITLES[column]: _column(rows, column, intervals) for column in columns}
    table = pd.DataFrame(cells).assign(group=[GROUPS[claim] for claim in claims])
    if not grouped:
        return _tabular(table.drop(columns="group"))
    parts = [part for _, part in table.groupby("group", sort=False)]
    parts.sort(key=lambda part: part["group"].iloc[0] == GROUPS[False])
    width = len(columns) + 1
    body = []
    for part in parts:
        heading = f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{part['group'].iloc[0]}}}}} \\\\"
        body.append("\n".join([heading, *_lines(part.drop(columns="group"))]))
    return _framed(list(cells), "\n\\midrule\n".join(body))


def _tabular(table: pd.DataFrame) -> str:
    return _framed(list(table), "\n".join(_lines(table)))


def _framed(titles: list[str], body: str) -> str:
    begin = f"\\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}"
    head = " & ".join(titles) + r" \\"
    return "\n".join([begin, r"\toprule", head, r"\midrule", body, r"\bottomrule", r"\end{tabular}", ""])


def _lines(table: pd.DataFrame) -> list[str]:
    return [" & ".join(row) + r" \\" for row in table.itertuples(index=False)]


def _column(rows: pd.DataFrame, column: str, intervals: bool) -> list[str]:
    """The cells of a column."""
    value, low, high = (rows[f"{column}{end}"].astype(float).tolist() for end in ("", "_low", "_high"))
    bounds = [
        (a if math.isfinite(a) else v, b if math.isfinite(b) else v) for v, a, b in zip(value, low, high, strict=True)
    ]
    costs = [(-b, -a) if column == "cosine" else (a, b) for a, b in bounds]
    reach = min((worst for v, (_, worst) in zip(value, costs, strict=True) if math.isfinite(v)), default=-math.inf)
    cells = []
    for k, (a, b) in enumerate(bounds):
        tie = math.isfinite(value[k]) and costs[k][0] <= reach + ROUNDING * max(1, abs(reach))
        number = f"$\\mathbf{{{_number(value[k])}}}$" if tie else f"${_number(value[k])}$"
        spread = f" {{\\scriptsize $[{_number(a)}, {_number(b)}]$}}" if intervals and a < b else ""
        cells.append(number + spread)
    return cells


def _number(value: float) -> str:
    text = significant(value)
    mantissa, e, exponent = text.partition("e")
    text = f"{mantissa} \\cdot 10^{{{int(exponent)}}}" if e else text
    return {"–": r"\text{--}", "∞": r"\infty"}.get(text, text.replace(",", "{,}"))
