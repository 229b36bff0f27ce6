"""The atlas as one page: python docs/make_atlas_page.py writes docs/atlas.md, .csv and .svg, from its data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from gradeval.analysis.plotting import paper_style, render
from gradeval.atlas import load, names

DOCS = Path(__file__).parent
BUDGETS = (1, 100, 10_000)  # draws
SHOWN = (1, 100)
FAR = 100.0  # times the least error: the end of the colours
ROUNDING = 1e-9  # below, a relative error is that of the arithmetic


def figures() -> pd.DataFrame:
    """All cells of the atlas, and RMSE(M) = √(bias² + variance/M) at some numbers of draws."""
    parts = []
    for name in names():
        accuracy = load(name).accuracy
        numbers = accuracy.columns.difference(["estimator", "layer"])
        parts.append(accuracy.astype(dict.fromkeys(numbers, float)).assign(problem=name))
    table = pd.concat(parts, ignore_index=True)
    variance = table["relative_variance"].clip(lower=0)
    for draws in BUDGETS:
        table[f"relative_rmse_{draws}"] = np.sqrt(table["relative_bias"] ** 2 + variance / draws)
    return table[["problem", *(column for column in table if column != "problem")]]


def ratios(table: pd.DataFrame, draws: int) -> pd.DataFrame:
    """The error of every estimator ÷ the least on that problem, [problems, estimators], unless some have no error.

    `exact` takes no part.
    """
    rows = table[(table["layer"] == "all") & (table["estimator"] != "exact")]
    found = rows.pivot(index="problem", columns="estimator", values=f"relative_rmse_{draws}")
    found = found[found.min(axis=1) > ROUNDING]
    found = found.div(found.min(axis=1), axis=0)
    return found.loc[[name for name in names() if name in found.index], rows["estimator"].unique()]


def draw(table: pd.DataFrame) -> Figure:
    """A panel for each number of draws: how many times the least error an estimator has on a problem."""
    with paper_style():
        figure = Figure(figsize=(7.2, 8.6), layout="constrained")
        panels = figure.subplots(len(SHOWN), 1, sharex=True)
        for axes, draws in zip(panels, SHOWN, strict=True):
            shown = ratios(table, draws).dropna(thresh=2)
            logs = np.log10(shown.clip(upper=FAR))
            labels = shown.map(lambda ratio: "" if math.isnan(ratio) else f"{ratio:.2g}" if ratio < FAR else "·")
            scale = {"vmin": 0.0, "vmax": math.log10(FAR), "cmap": "Blues", "cbar": False}
            sns.heatmap(logs, ax=axes, annot=labels, fmt="", annot_kws={"size": 4.6}, linewidths=0.4, **scale)
            axes.set(facecolor="0.9", xlabel="", ylabel="", title=f"mean of {draws:,} draw{'s' if draws > 1 else ''}")
            axes.tick_params(axis="x", rotation=90, labelsize=6.5, length=0)
            axes.tick_params(axis="y", rotation=0, labelsize=6.5, length=0)
    return figure


def cell(number: float) -> str:
    """A figure of a table; what is rounding is 0."""
    return "" if math.isnan(number) else "0" if abs(number) < ROUNDING else f"{number:.3g}"


def page(table: pd.DataFrame) -> str:
    """The text of docs/atlas.md."""
    whole = table[(table["layer"] == "all") & (table["estimator"] != "exact")]
    lines = [
        "# The atlas",
        "",
        f"By `python docs/make_atlas_page.py`, from the atlas in the package: {len(names())} problems, {len(whole)} "
        "cells of a problem and an estimator whose chance can be enumerated, each with exact bias, variance, scale and "
        "cosine. "
        "`gradeval reference NAME` shows an entry, `gradeval.atlas.load(name)` gives it, and "
        "`gradeval atlas --with mine.py:mine` places an estimator of your own in it. All cells, by layer, are in "
        "{download}`atlas.csv`: plot your estimator against them.",
        "",
        "## Which estimator where",
        "",
        "RMSE of the mean of so many draws, √(bias² + variance/M), of all parameters, divided by the least on that "
        f"problem (1 is the best, white; a dot is {FAR:g} times and more; grey: the estimator cannot be enumerated). "
        "One draw costs more with some estimators than with others: see [evaluations](evaluations.md). Which one to "
        "take: [recommendation](recommendation.md).",
        "",
        "![error over the least error](atlas.svg)",
        "",
        "How often each is the best, or within 10 % of the best, and its median and largest ratio over the problems "
        "(without those that some estimators solve without any error). Click a heading to sort.",
        "",
        "::::{div} sortable",
        "",
    ]
    heads = [f"{what}, {draws:,}" for draws in BUDGETS for what in ("best", "within 10 %", "median", "largest")]
    lines += [f"| estimator | problems | {' | '.join(heads)} |", f"|---|{'---:|' * (1 + len(heads))}"]
    tables = {draws: ratios(table, draws) for draws in BUDGETS}
    for name in tables[1].columns:
        row = [f"`{name}`", str(int(tables[1][name].notna().sum()))]
        for found in tables.values():
            ratio = found[name].dropna()
            best, near = int((ratio <= 1 + 1e-9).sum()), int((ratio <= 1.1).sum())
            row += [str(best), str(near), f"{ratio.median():.3g}", f"{ratio.max():.3g}"]
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", "::::", "", "## The problems", ""]
    for name in names():
        entry = load(name)
        mine = whole[whole["problem"] == name]
        source = f" ({entry.source})" if entry.source else ""
        lines += [
            f"### {name}",
            "",
            f"{entry.description.rstrip('.')}{source}. E f = {entry.results.value:.12g}, "
            f"‖∇J‖ = {entry.results.norms['all']:.6g}; by {', '.join(entry.results.methods)}.",
            "",
            "::::{div} sortable",
            "",
            "| estimator | bias | variance of a draw | cosine of the mean | RMSE of 1 | of 100 | of 10,000 |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in mine.sort_values("relative_rmse_1").to_dict("records"):
            keys = ("relative_bias", "relative_variance", "cosine", *(f"relative_rmse_{draws}" for draws in BUDGETS))
            lines.append(f"| `{row['estimator']}` | {' | '.join(cell(row[key]) for key in keys)} |")
        lines += ["", "::::", ""]
    return "\n".join(lines)


def csv(table: pd.DataFrame) -> str:
    """The text of docs/atlas.csv."""
    return table.to_csv(index=False, float_format="%.12g", lineterminator="\n")


def main() -> None:
    table = figures()
    (DOCS / "atlas.csv").write_text(csv(table))
    (DOCS / "atlas.svg").write_bytes(render(draw(table), "svg"))
    (DOCS / "atlas.md").write_text(page(table))


if __name__ == "__main__":
    main()
