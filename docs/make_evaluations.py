"""Layer and loss evaluations per draw and data point of every estimator, counted: a table and a figure.

python docs/make_evaluations.py            writes docs/evaluations.md and .svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from gradeval.analysis.plotting import log_axis, paper_style, render, styles, tidy
from gradeval.estimators import TABLE, get_estimator
from gradeval.estimators.protocol import learns, samples_of
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.sampling.probes import count_evaluations

FOLDER = Path(__file__).parent
WIDTH, DEPTHS = 5, (1, 2, 3, 4, 6, 8, 12, 16)
DRAWN = ("ram", "psa", "leg", "arm")


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


def draw(curves: dict[str, list[tuple[int, int]]]) -> Figure:
    """Evaluations against the number of units, with the slope at the end."""
    units, looks = WIDTH * np.array(DEPTHS), styles(curves)
    with paper_style():
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        axes = figure.subplots()
        for name, pairs in curves.items():
            total = [sum(pair) for pair in pairs]
            look: dict[str, Any] = {"color": looks[name].colour, "marker": looks[name].marker, "label": name}
            if name == "psa":  # as many as leg: around it
                look |= {"linewidth": 2.8, "markersize": 8}
            axes.plot(units, total, **look)
            slope = np.log(total[-1] / total[-2]) / np.log(units[-1] / units[-2])
            below = {"psa": -0.5, "leg": 1.0}.get(name, 0.0)  # the same place: one above the other
            at = {"textcoords": "offset points", "xytext": (6, 8 * below), "va": "center", "fontsize": 6.5}
            axes.annotate(f"slope {slope:.2f}", (units[-1], total[-1]), color=look["color"], **at)
        log_axis(axes, "x", units[0] * 0.85, units[-1] * 2)
        log_axis(axes, "y", 1.5, 2 * max(sum(pair) for pairs in curves.values() for pair in pairs))
        axes.set_xlabel(f"binary units (layers of {WIDTH})")
        axes.set_ylabel("evaluations of a layer or the loss\nper draw and data point")
        tidy(axes)
        axes.legend(frameon=False, loc="upper left")
    return figure


def main() -> None:
    (FOLDER / "evaluations.svg").write_bytes(render(draw({n: [counts(n, d) for d in DEPTHS] for n in DRAWN}), "svg"))
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
