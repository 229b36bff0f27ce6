"""Layer and loss evaluations per draw and data point of every estimator, counted: a table and a figure.

python docs/make_evaluations.py            writes docs/evaluations.md and .svg
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import ScalarFormatter

from gradeval.estimators import TABLE, get_estimator
from gradeval.estimators.protocol import learns, samples_of
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.sampling.probes import count_evaluations

FOLDER = Path(__file__).parent
WIDTH, DEPTHS = 5, (1, 2, 3, 4, 6, 8, 12, 16)
DRAWN = {"ram": ("#D55E00", "o"), "leg": ("#0072B2", "s"), "arm": ("#E69F00", "^"), "psa": ("#009E73", "D")}
"""Colours (Okabe & Ito) and markers."""


def counts(name: str, depth: int) -> tuple[int, int]:
    """Counted on a network of ``depth`` layers, and equal to the formula of the table."""
    network = StochasticBinaryNetwork.linear(2, [WIDTH] * depth, 1)
    problem = Problem(network, torch.ones(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    estimator = get_estimator(name)
    if learns(estimator):
        estimator = estimator.fit(problem, 0)
    found = count_evaluations(problem, estimator)
    assert found == TABLE[name].evaluations([WIDTH] * depth, samples_of(estimator)), name
    return found


def main() -> None:
    curves = {name: [counts(name, depth) for depth in DEPTHS] for name in DRAWN}
    figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    units = WIDTH * np.array(DEPTHS)
    for name, (colour, marker) in DRAWN.items():
        total = [sum(pair) for pair in curves[name]]
        open_face = {"markerfacecolor": "none", "markersize": 9} if name == "leg" else {}  # as many as psa: around it
        axes.loglog(units, total, color=colour, marker=marker, label=name, **open_face)
        slope = np.log(total[-1] / total[-2]) / np.log(units[-1] / units[-2])
        axes.annotate(f" slope {slope:.2f}", (units[-1], total[-1]), color=colour, va="center", fontsize=9)
    axes.set_xlabel(f"binary units (layers of {WIDTH})")
    axes.set_ylabel("evaluations of a layer or the loss\nper draw and data point")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(units[0] * 0.85, units[-1] * 1.9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    plt.rcParams["svg.hashsalt"] = "gradeval"  # the same figure is the same file
    figure.savefig(FOLDER / "evaluations.svg", metadata={"Date": None})
    lines = [
        "# Evaluations per draw and data point",
        "",
        "Counted by `python docs/make_evaluations.py`, which asserts that they are those of the formulas in",
        "`gradeval list`; L layers of widths n, K samples. `psa` grows linearly with the number of layers, `ram`",
        "quadratically.",
        "",
        "![evaluations against the number of units](evaluations.svg)",
        "",
        "| estimator | layers | losses | 5-5-5: layers | losses | 8 layers of 5: layers | losses |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, facts in TABLE.items():
        three, eight = counts(name, 3), counts(name, 8)
        formulas = f"`{facts.layer_evaluations}` | `{facts.loss_evaluations}`"
        lines.append(f"| `{name}` | {formulas} | {three[0]:g} | {three[1]:g} | {eight[0]:g} | {eight[1]:g} |")
    (FOLDER / "evaluations.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
