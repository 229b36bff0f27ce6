"""Every figure takes a choice of estimators, their order, labels, a size, a style and axes, and returns its axes."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradeval.analysis.drawing import Drawing, Panels
from gradeval.analysis.plotting import Style
from gradeval.analysis.run.figures import RUN_FIGURES
from gradeval.analysis.run.parameter_figure import parameter_curves
from gradeval.analysis.scaling import fit_exponents, scaling_figure
from gradeval.analysis.sweep import trend_figure
from gradeval.analysis.training import Training
from gradeval.analysis.training_figures import TRAINING_FIGURES, objective_figure, search_figure
from gradeval.analysis.training_folder import TRAINING_TABLES
from gradeval.errors import GradevalError

make_run = runpy.run_path(str(Path(__file__).parent / "run" / "test_figures.py"))["make_run"]
NAMES = ["reinforce", "arm", "ram", "st", "psa"]
WORDS = {"arm": "$\\beta$-ARM", "st": "ST"}
OWN = Drawing(
    ["st", "ram", "arm", "reinforce"], layers=["all"], labels={"arm": "$\\beta$-ARM", "st": "ST"}, size=(3, 2)
)
FIGURES = {name: function for name, (function, _) in RUN_FIGURES.items()}
DRAWN = [*FIGURES.values(), *(draw for draw, _ in TRAINING_FIGURES.values()), scaling_figure, trend_figure]


@pytest.fixture(scope="module")
def run() -> Any:
    return make_run(NAMES, ["1", "all"])


def words(panels: Panels) -> list[str]:
    """What is written for estimators: in the legend, or at the ticks."""
    figure = panels.figure
    assert figure is not None
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [*legends, *(text.get_text() for ax in panels.values() for text in ax.get_yticklabels())]


@pytest.mark.parametrize("function", [*DRAWN, parameter_curves])
def test_every_figure_takes_a_drawing_and_axes(function: Any) -> None:
    hints = function.__annotations__
    assert (hints["drawing"], hints["ax"], hints["return"]) == ("Drawing", "GivenAxes", "Panels")
    assert inspect.signature(function).parameters["ax"].default is None


@pytest.mark.parametrize("name", FIGURES)
def test_estimators_are_drawn_in_the_caller_s_order_and_words_at_its_size(name: str, run: Any) -> None:
    panels = FIGURES[name](run, OWN)
    assert panels.figure is not None
    assert tuple(panels.figure.get_size_inches()) == (3, 2)
    if name == "data":
        return
    expected = {"break-even": ["$\\beta$-ARM", "ram", "reinforce", "ST"], "variance-reduction": ["ram", "$\\beta$-ARM"]}
    own = ["ST", "ram", "$\\beta$-ARM", "reinforce"]
    found = [word for word in words(panels) if word in own]
    order = own[1:] + own[:1] if name == "break-even" else own
    kept = [word for word in order if word in found]
    assert found[: len(kept)] == kept
    assert set(expected.get(name, own)) <= set(found)
    assert "psa" not in words(panels)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_on_the_caller_s_axes(name: str, run: Any) -> None:
    """They get no legend, since the figure is not ours, but lines have labels for one."""
    figure = Figure()
    drawing = Drawing(
        OWN.estimators, labels=OWN.labels, panels={"heat-map": ["rmse"], "break-even": ["draws"]}.get(name)
    )
    ax = figure.subplots()
    panels = FIGURES[name](run, drawing, ax)
    assert list(panels.values()) == [ax]
    assert not panels.new
    assert not figure.legends
    assert ax.get_xlabel()
    if name in ("rmse", "cosine", "bias-variance"):
        assert list(panels) == ["all"]
        assert ax.get_legend_handles_labels()[1] == ["ST", "ram", "$\\beta$-ARM", "reinforce"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"estimators": ["pso"]}, "unknown estimator 'pso': did you mean psa?"),
        ({"layers": ["al"]}, "unknown layer 'al': did you mean all?"),
        ({"labels": {"rinforce": "R"}}, "unknown estimator with a label 'rinforce': did you mean reinforce?"),
        ({"looks": {"ar": Style("k", "o")}}, "unknown estimator with a look 'ar': did you mean arm"),
    ],
)
def test_what_a_run_does_not_have_is_refused(given: dict[str, Any], message: str, run: Any) -> None:
    with pytest.raises(GradevalError, match=re.escape(message)):
        FIGURES["rmse"](run, Drawing(**given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 3}, "size must be a width and a height"),
        ({"size": (3, float("nan"))}, "size must be a width and a height"),
        ({"labels": {"a": "x", "b": "x"}}, "labels must differ"),
        ({"labels": {"a": r"$\nothing$"}}, "label '$\\\\nothing$' cannot be drawn"),
        ({"style": "ggplott"}, "unknown style of matplotlib 'ggplott': did you mean ggplot?"),
        ({"style": {"font.sizes": 3}}, "unknown setting of matplotlib 'font.sizes': did you mean font.size"),
        ({"style": [{"font.size": "big"}]}, "the style {'font.size': 'big'} cannot be used"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(GradevalError, match=re.escape(message)) as raised:
        Drawing(**given)
    assert "\n" not in str(raised.value)


def test_there_must_be_as_many_axes_as_panels(run: Any) -> None:
    axes = Figure().subplots(1, 3)
    with pytest.raises(GradevalError, match=re.escape("has 2 panels (1, all) and was given 3 axes: give as many, or")):
        FIGURES["rmse"](run, ax=axes)
    with pytest.raises(GradevalError, match="ax must be axes of matplotlib, one for each panel; found 'left'"):
        FIGURES["rmse"](run, ax=["left", "right"])
    assert list(FIGURES["rmse"](run, ax=axes[:2]).values()) == list(axes[:2])


def test_letters_grow_with_the_style_and_stay_when_it_is_saved_elsewhere(run: Any, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    panels = FIGURES["rmse"](run, Drawing(["st"], layers="1", style={"font.size": 16}))
    figure, ax = panels.figure, panels["1"]
    assert figure is not None
    figure.savefig(tmp_path / "elsewhere.png")
    assert ax.title.get_size() == 16
    assert [text.get_size() for text in ax.get_xticklabels()] == [14.0] * len(ax.get_xticklabels())
    assert [text.get_size() for text in figure.legends[0].get_texts()] == [15.0]
    assert dict(matplotlib.rcParams) == before


def test_a_long_label_of_a_narrow_figure_has_two_lines(run: Any) -> None:
    """Planted: a line that is cut at both ends."""
    for width, lines in ((2.5, 2), (6.0, 1)):
        panels = FIGURES["bias-variance"](run, Drawing(layers="all", size=(width, 2.5)))
        assert panels.figure is not None
        label = panels.figure.get_supxlabel()
        assert label.count("\n") == lines - 1
        assert label.replace("\n", " ") == "relative standard deviation of one draw, √(tr Σ) / ‖g*‖"


def test_a_figure_is_saved_in_the_format_of_its_name(run: Any, tmp_path: Path) -> None:
    panels = FIGURES["rmse"](run, Drawing(["st"], layers="1", legend=False, looks={"st": Style("#123456", "s")}))
    assert panels.figure is not None
    assert not panels.figure.legends
    assert panels["1"].lines[0].get_color() == "#123456"
    assert panels.save(tmp_path / "new" / "rmse.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (panels._repr_svg_() or "")
    with pytest.raises(GradevalError, match="unknown format of a figure 'pfd': did you mean pdf"):
        panels.save(tmp_path / "rmse.pfd")
    with pytest.raises(GradevalError, match="there is nothing to show"):
        Panels().save(tmp_path / "rmse.pdf")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_figures_of_a_training_take_a_choice_too() -> None:
    tables = {name: pd.DataFrame(columns=columns) for name, columns in TRAINING_TABLES.items()}
    tables["trials"] = pd.DataFrame(
        [
            {"estimator": name, "rate": rate, "seed": seed, "objective": 1.0 + rate + seed}
            for name in ("st", "psa", "arm")
            for rate in (0.1, 0.2)
            for seed in (0, 1)
        ]
    )
    manifest = {"estimators": {name: {"unbiased_claim": name == "arm"} for name in ("st", "psa", "arm")}}
    ax = Figure().subplots()
    assert search_figure(Training(manifest, tables), Drawing(["arm", "st"], labels={"st": "ST"}), ax) == {"trials": ax}
    assert ax.get_legend_handles_labels()[1] == ["arm", "ST"]
    assert ax.get_ylabel() == "training objective"
    assert not objective_figure(Training(manifest, tables))


def test_figures_of_sweeps_and_costs_take_a_choice_too() -> None:
    rows = [
        {"estimator": name, "layer": layer, "depth": float(depth), "width": 2.0, "unbiased_claim": name == "arm"}
        | {"verdict": "biased" if name != "arm" else f"claim of no bias {'refuted' if depth == 3 else 'undecided'}"}
        | {"relative_rmse": 1.0 + depth, "relative_bias": 0.1 * depth, "relative_variance": 2.0}
        for name in ("arm", "st", "psa")
        for layer in ("1", "all")
        for depth in (1, 2, 3)
    ]
    drawing = Drawing(["psa", "arm"], panels=["relative_variance"], labels={"psa": "PSA"}, layers="1")
    panels = trend_figure(pd.DataFrame(rows), "depth", drawing)
    assert list(panels) == ["relative_variance"]
    assert [word for word in words(panels) if word in ("PSA", "arm", "st")] == ["PSA", "arm"]
    assert not trend_figure(pd.DataFrame(rows), "width")
    (bias,) = trend_figure(pd.DataFrame(rows), "depth", Drawing(["arm"], panels=["relative_bias"])).values()
    assert len(bias.containers[0].lines[0].get_xdata()) == 1  # where the claim is refuted
    sizes = [4.0, 8.0, 16.0]
    made = {"size": sizes, "evaluations": sizes, "flops": sizes, "seconds": sizes}
    table = pd.concat([pd.DataFrame({"estimator": n, "axis": "depth", **made}) for n in ("st", "psa")])
    ax = Figure().subplots()
    found = scaling_figure(table, fit_exponents(table), Drawing("psa", panels=["depth, flops"]), ax)
    assert found == {"depth, flops": ax}
    assert len(ax.lines) == 1
