"""What figures show of very many estimators and layers, and that captions say so."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from gradeval.analysis.plotting import FAMILIES
from gradeval.analysis.run.figures import RUN_FIGURES, caption_of, selection_words
from gradeval.analysis.run.panels import (
    MOST_COLUMNS,
    MOST_ESTIMATORS,
    MOST_LAYERS,
    MOST_OF_FAMILY,
    few_layers,
    shown_estimators,
    shown_layers,
)

make_run = runpy.run_path(str(Path(__file__).with_name("test_figures.py")))["make_run"]
MANY = [*(f"user:estimator_{i}" for i in range(60)), "arm", "psa"]
DEEP = [*map(str, range(1, 61)), "head", "all"]


def test_an_ordinary_run_is_shown_whole() -> None:
    run = make_run()
    assert shown_estimators(run) == list(run.summary["estimator"].unique())
    assert shown_layers(run) == list(run.summary["layer"].unique())
    assert selection_words(run) == ""
    captions = {name: caption for name, (_, caption) in RUN_FIGURES.items() if name != "data"}
    assert {name: caption_of(run, name) for name in captions} == captions


def test_of_many_estimators_the_known_and_the_most_accurate_are_shown() -> None:
    """Planted: the first ones of the table."""
    run = make_run(MANY, ["all"], sizes={name: (0.5, 70.0 - i) for i, name in enumerate(MANY)})
    run.best.loc[run.best["estimator"] == "psa", "relative_rmse"] = float("nan")
    shown = shown_estimators(run)
    assert len(shown) == MOST_ESTIMATORS
    assert {"arm", "psa"} <= set(shown)
    assert shown == [*MANY[60 - MOST_ESTIMATORS + 2 : 60], "arm", "psa"]
    assert "24 of the 62 estimators are shown" in caption_of(run, "rmse")


def test_a_deep_network_shows_layers_that_have_a_gradient() -> None:
    run = make_run(["st"], DEEP, undefined=map(str, range(1, 21)))
    shown = shown_layers(run)
    assert len(shown) == MOST_LAYERS
    assert shown[0] == "21"
    assert shown[-3:] == ["60", "head", "all"]
    assert "12 of the 62 sets of parameters are shown" in caption_of(run, "heat-map")
    assert shown_layers(make_run(["st"], DEEP, undefined=DEEP[:60])) == ["head", "all"]


@pytest.mark.parametrize("name", [name for name in RUN_FIGURES if name != "data"])
def test_figures_of_a_large_run_have_a_size_that_does_not_grow(name: str) -> None:
    """Planted: a figure that takes all names or layers of the tables."""
    run = make_run([*MANY, "reinforce", "ram"], DEEP, blocks=20)
    figure = RUN_FIGURES[name][0](run).figure
    assert figure is not None
    rows = len(FAMILIES) + MOST_ESTIMATORS // MOST_OF_FAMILY + 1
    assert len(figure.axes) <= (rows * (MOST_COLUMNS + 1) if name in ("rmse", "cosine") else MOST_LAYERS)
    width, height = figure.get_size_inches()
    assert width * height < 250


def test_of_many_lines_each_family_has_a_row() -> None:
    """Of 62 estimators and 62 layers: four columns, as the caption says; a name stands in the legend once."""
    run = make_run([*MANY, "reinforce", "ram"], DEEP, blocks=20)
    figure = RUN_FIGURES["rmse"][0](run).figure
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes[:4]] == ["layer 1", "layer 60", "head", "all layers"]
    assert "4 of the 62 sets of parameters are shown" in caption_of(run, "rmse")
    titles = [legend.get_title().get_text() for legend in figure.legends]
    assert titles[:3] == ["score function", "antithetic", "marginalisation"]
    named = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert sorted(named) == sorted(shown_estimators(run))
    assert few_layers(["1", "head", "all"]) == ["1", "head", "all"]
