"""The figure of bias and spread along a hyper-parameter of the estimators of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gradeval.analysis.drawing import USUAL, Drawing, GivenAxes, Panels
from gradeval.analysis.legends import printable
from gradeval.analysis.numbers import layer_title
from gradeval.analysis.plotting import NOISE_FLOOR, SOLID, log_axis, log_limits, tidy
from gradeval.analysis.run.panels import among, drawn_layers, run_look
from gradeval.errors import GradevalError, unknown_name

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation

DRAWN = {"relative bias": ("relative_bias", SOLID), "relative spread": ("relative_variance", ":")}
DECADE = 10.0  # a hyper-parameter that varies by more has a logarithmic axis


def parameter_curves(
    run: Evaluation,
    parameter: str,
    drawing: Drawing = USUAL,
    ax: GivenAxes = None,
    *,
    family: str | None = None,
) -> Panels:
    """Draw relative bias and relative spread √(variance) of one draw along a hyper-parameter, with 95 % intervals.

    Where no bias was seen there is an arrow at the upper end of the interval.

    Args:
        run: of estimators that differ in the hyper-parameter.
        parameter: its name, "temperature".
        drawing: which estimators and layers ("all" if none are chosen), and how the figure looks.
        ax: axes of your own, one for each layer. By default a new figure is made.
        family: of the estimators; needed where several have the hyper-parameter.

    Returns:
        The axes by layer.

    Raises:
        GradevalError: no estimators that differ in it, or several families of them.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units=2, stage=0, points=4)
        >>> run = gradeval.evaluate(problem, "concrete:temperature=0.1|0.3|1", draws=100)
        >>> run.hyper_parameters["temperature"].tolist()
        [0.1, 0.3, 1.0]
        >>> parameter_curves(run, "temperature")["all"].get_xlabel()
        'temperature'
    """
    names = run_look(run, drawing).names if drawing.estimators is not None else None
    table = _values(
        among(run.hyper_parameters, names, "estimator") if names else run.hyper_parameters, parameter, family
    )
    layers = ["all"] if drawing.layers is None else drawn_layers(run, drawing)
    rows = run.best.merge(table, on="estimator").sort_values(parameter)
    with drawing.settings(ax):
        panels = Panels.open(layers, drawing, ax, (3.6 * len(layers), 2.8), len(layers))
        for layer, panel in panels.items():
            _draw(panel, rows[rows["layer"] == layer], parameter)
            panel.set_title(f"{printable(str(table['family'].iloc[0]))}, {layer_title(layer)}", parse_math=False)
            if drawing.legend:
                panel.legend()
    return panels


def _draw(panel: Axes, rows: pd.DataFrame, parameter: str) -> None:
    drawn = {label: _ends(rows, column) for label, (column, _) in DRAWN.items()}
    low, high = log_limits(*(pd.Series(values[1]) for values in drawn.values()))
    log_axis(panel, "y", low, high)
    if rows[parameter].min() > 0 and rows[parameter].max() >= DECADE * rows[parameter].min():
        log_axis(panel, "x", *log_limits(rows[parameter], room=1.3))
    for marker, (label, ends) in zip("os", drawn.items(), strict=True):
        below, value, above = (np.clip(end, low, high) for end in ends)
        seen = ends[1] > NOISE_FLOOR
        y, dashes = np.where(seen, value, np.nan), DRAWN[label][1]
        (line,) = panel.plot(rows[parameter], y, label=label, linestyle=dashes, marker=marker)
        panel.fill_between(rows[parameter], below, above, color=line.get_color(), alpha=0.25, linewidth=0)
        panel.scatter(rows[parameter][~seen], above[~seen], marker="v", facecolor="white", color=line.get_color())
    panel.set(xlabel=parameter, ylabel="relative to the exact gradient")
    tidy(panel)


def _values(table: pd.DataFrame, parameter: str, family: str | None) -> pd.DataFrame:
    """Estimator, family and value of the hyper-parameter, of one family in which it varies."""
    known = [column for column in table.columns if column not in ("estimator", "family")]
    if parameter not in known:
        if not known:
            raise GradevalError(
                f"no estimator of this run has hyper-parameters: there is no {parameter} to draw along."
            )
        raise unknown_name("hyper-parameter of this run", parameter, known)
    table = table[["estimator", "family", parameter]].dropna()
    if family is not None:
        table = table[table["family"] == family]
    families = [str(name) for name, rows in table.groupby("family", sort=False) if rows[parameter].nunique() > 1]
    if len(families) != 1:
        found = f"it varies in {', '.join(families)}: choose one by family=" if families else "found one value at most"
        raise GradevalError(f"{parameter} must vary within one family of estimators; {found}.")
    return table[table["family"] == families[0]]


def _ends(rows: pd.DataFrame, column: str) -> list[np.ndarray]:
    """The interval's low end, the value and the high end; of a variance their roots."""
    ends = [rows[f"{column}{end}"].to_numpy(float) for end in ("_low", "", "_high")]
    ends = [np.where(np.isfinite(end), end, ends[1]) for end in ends]
    return [np.maximum(np.sqrt(end) if column.endswith("variance") else end, NOISE_FLOOR) for end in ends]
