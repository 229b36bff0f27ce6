"""Figures: made for every shape of run, labelled, and an estimator looks the same in all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWNBASE

from gradeval.analysis.plotting import STYLES, render, styles
from gradeval.analysis.run.choice import choice_table
from gradeval.analysis.run.figures import RUN_FIGURES, save_run_figures
from gradeval.analysis.run.pairs import PAIR_COLUMNS
from gradeval.analysis.run.summary import BiasVerdict
from gradeval.analysis.run.table_figures import _short

SEVEN = ("reinforce", "arm", "concrete:temperature=0.1", "concrete:temperature=1.0", "tanh", "st", "psa")
UNBIASED = ("reinforce", "arm", "ram", "rloo", "user:exact")
# relative bias and relative variance of one draw, near those of the paper's 5-5-5 network after one epoch
SIZES = {
    "reinforce": (0.0, 76.0),
    "arm": (0.0, 9.0),
    "concrete:temperature=0.1": (0.09, 6.0),
    "concrete:temperature=1.0": (0.55, 0.4),
    "tanh": (0.8, 0.0),
    "st": (0.14, 0.9),
    "psa": (0.034, 0.8),
}


def verdict(claimed: bool, seen: bool, bias: float) -> BiasVerdict:
    if math.isnan(bias):
        return BiasVerdict.UNDEFINED
    if seen:
        return BiasVerdict.REFUTED if claimed else BiasVerdict.BIASED
    return BiasVerdict.HOLDS if claimed else BiasVerdict.NO_BIAS_SEEN


def make_run(
    names: Iterable[str] = SEVEN,
    layers: Iterable[str] = ("1", "2", "3", "head", "all"),
    *,
    undefined: Iterable[str] = (),
    blocks: int = 20_000,
    points: bool = True,
    sizes: dict[str, tuple[float, float]] | None = None,
) -> Any:
    """A run whose tables follow from a bias and a variance per estimator and layer; `undefined` layers are NaN."""
    names, layers = list(names), list(layers)
    known = SIZES | (sizes or {})
    summary: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    fits: list[dict[str, Any]] = []
    for (i, name), (j, layer) in itertools.product(enumerate(names), enumerate(layers)):
        bias, variance = known.get(name, (0.0 if name in UNBIASED else 0.02 * (1 + i), 0.5 * (1 + i)))
        bias, variance = bias * (1 + 0.3 * j), variance * (1 + 0.2 * j)
        if layer in undefined:
            bias = variance = float("nan")
        error = np.sqrt(variance / blocks)
        seen = bias > 3 * error or variance == 0
        low, high = (bias * 0.95 if seen else 0.0), (bias * 1.05 if seen else 2 * error)

        def around(column: str, value: float, share: float = 0.02) -> dict[str, float]:
            return {column: value, f"{column}_low": value * (1 - share), f"{column}_high": value * (1 + share)}

        def rmse(m: int, bias: float = bias, variance: float = variance) -> float:
            return float(np.sqrt(bias**2 + variance / m))

        def cosine(m: int, bias: float = bias, variance: float = variance) -> float:
            return float(1 / np.sqrt(1 + bias**2 + variance / m))

        fixed = variance == 0
        summary.append(
            {"estimator": name, "layer": layer, "draws": blocks}
            | {"relative_bias": bias if seen else error, "relative_bias_low": low, "relative_bias_high": high}
            | {"bias_pvalue": 0.0 if seen else 0.4 + 0 * bias, "bias_pvalue_adjusted": 0.0 if seen else 1.0 + 0 * bias}
            | {"detectable_bias": 3 * error}
            | around("relative_variance", variance)
            | around("cosine", cosine(1))
            | around("relative_rmse", rmse(1), 0.0 if fixed else 0.01)
            | around("descent_probability", 1.0 if fixed else 0.5 + 0.5 * cosine(1), 0.0)
            | around("scale", 1 + bias)
            | around("rescaled_bias", 0.0)
            | around("signal_to_noise", float("inf") if fixed else (1 + bias) / variance**0.5)
            | around("progress", cosine(1))
            | {"seconds_per_draw": 3.4e-5 * (1 + i), "layer_evaluations": 3.0, "loss_evaluations": 1.0}
            | {"unbiased_claim": name in UNBIASED, "deterministic": fixed}
            | {"exact_relative_bias": float("nan"), "verdict": verdict(name in UNBIASED, seen, bias)}
            | {
                "unbiased": name in UNBIASED and not seen,
                "exact": name in known,
                "bias_seen": bool(seen) and layer not in undefined,
            }
        )
        for m in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
            if blocks // m < 20:
                continue
            middle, width = cosine(m), 0.0 if fixed else 0.3 / np.sqrt(m)
            curves.append(
                {"estimator": name, "layer": layer, "samples": m, "blocks": blocks // m}
                | around("cosine", middle, 0.0 if fixed else 0.005)
                | {"cosine_q15": middle - width, "cosine_q85": min(1.0, middle + width)}
                | around("relative_rmse", rmse(m), 0.0 if fixed else 0.02)
            )
        fits.append(
            {"estimator": name, "layer": layer, "relative_bias": bias, "relative_variance": variance}
            | around("wls_relative_bias", bias, 0.1)
            | around("wls_relative_variance", variance, 0.03)
        )
    differences: list[dict[str, Any]] = []
    for a, b in itertools.combinations([row for row in summary if row["layer"] == "all"], 2):
        square = a["relative_rmse"] ** 2 - b["relative_rmse"] ** 2
        differences.append(
            {"one": a["estimator"], "two": b["estimator"], "layer": "all"}
            | around("square", square)
            | around("variance", a["relative_variance"] - b["relative_variance"])
            | {"pvalue": 0.01, "pvalue_adjusted": 0.04, "exact": a["exact"] and b["exact"]}
        )
    pairs: list[dict[str, Any]] = []
    everything = [row for row in summary if row["layer"] == "all"]
    for a, b in itertools.product(everything, everything):
        if a["unbiased_claim"] and not b["unbiased_claim"]:
            m = max(0.0, (a["relative_variance"] - b["relative_variance"]) / b["relative_bias"] ** 2)
            pairs.append(
                {"unbiased": a["estimator"], "biased": b["estimator"], "layer": "all"}
                | around("draws", m, 0.1)
                | around("seconds", m * a["seconds_per_draw"], 0.1)
            )
    pair_columns = ["unbiased", "biased", "layer", "draws", "draws_low", "draws_high"]
    pair_columns += ["seconds", "seconds_low", "seconds_high"]
    curve_columns = ["estimator", "layer", "samples", "blocks", "cosine", "cosine_low", "cosine_high", "cosine_q15"]
    curve_columns += ["cosine_q85", "relative_rmse", "relative_rmse_low", "relative_rmse_high"]
    difference_columns = differences[0] if differences else dict.fromkeys([*PAIR_COLUMNS, "pvalue_adjusted", "exact"])
    random = np.random.default_rng(0)
    x, y = random.uniform(-np.pi / 2, np.pi / 2, 60), random.uniform(-1, 1, 60)
    grid = np.array(list(itertools.product(np.linspace(-2, 2, 41), np.linspace(-1.3, 1.3, 31))))
    best, compared = pd.DataFrame(summary), pd.DataFrame(differences, columns=list(difference_columns))
    return SimpleNamespace(
        summary=pd.DataFrame(summary),
        norms={layer: 2.0 if layer == "all" else 1.0 for layer in dict.fromkeys(row["layer"] for row in summary)},
        best=best,
        choice=choice_table(best, compared),
        curves=pd.DataFrame(curves, columns=curve_columns),
        best_curves=pd.DataFrame(curves, columns=curve_columns),
        pairs=compared,
        breakeven=pd.DataFrame(pairs, columns=pair_columns),
        variance_reduction=pd.DataFrame(
            [
                {"estimator": row["estimator"], "layer": row["layer"], "evaluations_gain": 2.0, "seconds_gain": 3.0}
                | around("share", 0.1 + 0.7 * place / len(summary), 0.1)
                for place, row in enumerate(summary)
                if row["unbiased_claim"] and pairs
            ],
            columns=["estimator", "layer", "share", "share_low", "share_high", "evaluations_gain", "seconds_gain"],
        ),
        fits=pd.DataFrame(fits),
        points=pd.DataFrame({"x": x, "y": y, "target": np.where(y > 0, 1, -1)}) if points else None,
        prediction=pd.DataFrame({"x": grid[:, 0], "y": grid[:, 1], "prediction": 1 / (1 + np.exp(-3 * grid[:, 1]))})
        if points
        else None,
        manifest={
            "format": "gradeval-run/3",
            "created": "2025-01-01T12:00:00+00:00",
            "arguments": {"problem": "expclass", "units": "5-5-5", "draws": blocks},
            "seed": 7,
            "detect": 0.05,
            "looks": 1,
            "draws": blocks,
            "versions": {"gradeval": "0.1.0", "torch": "2.9.0"},
            "device": "cpu",
            "dtype": "float64",
            "problem": {
                "name": "expclass",
                "description": "2-D classification, 5-5-5 network",
                "fingerprint": "0123456789abcdef",
                "points": 200,
                "widths": [5, 5, 5],
                "noise": "logistic",
                "states": [0, 1],
                "loss": "logistic",
                "parameters": 81,
                "exact_value": 0.7209702952557941,
                "gradient_norms": {layer: 0.0 if layer in undefined else 0.0123 for layer in layers},
            },
            "estimators": {
                name: {
                    "source": "Author, Venue 2020, arXiv:0000.00000",
                    "unbiased_claim": name in UNBIASED,
                    "deterministic": known.get(name, (0, 1))[1] == 0,
                    "vectorised": True,
                    "notes": [],
                }
                for name in names
            },
            "timings": dict.fromkeys(names, 1.25),
        },
    )


MANY = [*list(STYLES)[:12], *(f"user:estimator_{i}" for i in range(13))]
HOSTILE = ["_private:$x_{", "<script>alert(1)</script>", "模块:估计\n", "a" * 300]
SHAPES: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "one estimator": {"names": ["st"]},
    "one layer": {"layers": ["all"]},
    "one of each": {"names": ["reinforce"], "layers": ["all"]},
    "a layer without gradient": {"undefined": ["2"]},
    "no gradient at all": {"undefined": ["1", "2", "3", "head", "all"]},
    "deterministic only": {"names": ["tanh"]},
    "exactly unbiased and deterministic": {"names": ["user:exact"], "sizes": {"user:exact": (0.0, 0.0)}},
    "unbiased only": {"names": ["reinforce", "arm"]},
    "few draws": {"layers": ["1", "all"], "blocks": 20},
    "25 estimators": {"names": MANY, "layers": ["1", "all"]},
    "12 layers": {"names": ["st", "arm"], "layers": [*map(str, range(1, 11)), "head", "all"]},
    "hostile names": {"names": HOSTILE, "layers": ["1", "all"]},
    "not in the plane": {"names": ["st"], "layers": ["all"], "points": False},
}


def draw(run: Any) -> dict[str, Figure]:
    drawn = {name: function(run).figure for name, (function, _) in RUN_FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def one_figure(run: Any, name: str) -> Figure:
    figure = RUN_FIGURES[name][0](run).figure
    assert figure is not None
    return figure


def labels(figure: Figure) -> set[str]:
    texts = [axis.get_label_text() for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    return {text for text in [*texts, figure.get_supxlabel(), figure.get_supylabel()] if text}


def legend(figure: Figure) -> dict[str, tuple[str, Any]]:
    """Colour and marker by the legend's words."""
    entries = {}
    for box in figure.legends:
        for text, handle in zip(box.get_texts(), box.legend_handles, strict=True):
            entries[text.get_text()] = (to_hex(handle.get_color()), handle.get_marker())
    return entries


@pytest.mark.parametrize("shape", SHAPES)
def test_every_figure_is_drawn_for_every_shape_of_run(shape: str) -> None:
    before = dict(matplotlib.rcParams)
    drawn = draw(make_run(**SHAPES[shape]))
    assert {"bias-variance", "heat-map"} <= set(drawn)
    for figure in drawn.values():
        assert render(figure, "svg")
    assert dict(matplotlib.rcParams) == before


def test_figures_without_anything_to_show_are_left_out() -> None:
    assert set(draw(make_run())) == set(RUN_FIGURES)
    assert "data" not in draw(make_run(points=False))
    assert "break-even" not in draw(make_run(["reinforce", "arm"]))
    assert not {"rmse", "cosine"} & set(draw(make_run(blocks=10)))


def test_axes_are_labelled() -> None:
    for name, figure in draw(make_run()).items():
        assert len(labels(figure)) >= (1 if name == "heat-map" else 2), name
    titles = [ax.get_title() for ax in one_figure(make_run(), "rmse").axes if ax.axison]
    assert titles == ["layer 1", "layer 2", "layer 3", "head", "all layers"]


def test_legend_names_the_estimators_that_are_plotted() -> None:
    drawn = draw(make_run())
    for name in ("bias-variance", "rmse", "cosine"):
        assert list(legend(drawn[name])) == list(SEVEN)
    assert list(legend(drawn["break-even"])) == ["reinforce", "arm"]
    rows = make_run()
    rows.curves = rows.best_curves = rows.curves[rows.curves["estimator"] != "arm"]
    assert "arm" not in legend(one_figure(rows, "rmse"))


def test_names_are_shown_as_they_are_and_never_read_as_mathematics() -> None:
    shown = list(legend(one_figure(make_run(HOSTILE, ["all"]), "rmse")))
    assert shown[:2] == HOSTILE[:2]
    assert shown[2] == "??:???"
    assert len(shown[3]) < 40


def test_an_estimator_looks_the_same_in_all_figures_and_in_any_company() -> None:
    names = [*SEVEN, "user:one", "user:two", "rloo:samples=4"]
    looks = [legend(figure) for key, figure in draw(make_run(names)).items() if key != "data"]
    alone = [legend(one_figure(make_run([name]), "rmse")) for name in names]
    for look in (*looks, *alone):
        for name, style in look.items():
            assert style == looks[0][name]
    assert styles(reversed(names)) == styles(names)
    assert styles(["rloo:samples=4"])["rloo:samples=4"].colour == STYLES["rloo"].colour


def test_the_cosine_is_drawn_as_its_distance_from_one() -> None:
    """Planted: the cosine's own ends, which would be exchanged."""
    run = make_run(["st"], ["all"])
    (ax,) = one_figure(run, "cosine").axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 1 - run.curves["cosine"])
    heights = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(1 - run.curves["cosine_low"].min())
    assert ax.get_yscale() == "log"


def test_curves_and_bands_hold_the_numbers_of_the_table() -> None:
    run = make_run(["st"], ["all"])
    (ax,) = one_figure(run, "rmse").axes
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), run.curves["samples"])
    np.testing.assert_array_equal(line.get_ydata(), run.curves["relative_rmse"])
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == run.curves["relative_rmse_low"].min()
    assert heights.max() == run.curves["relative_rmse_high"].max()


@pytest.mark.parametrize(("name", "height", "arrow"), [("st", "relative_bias", 0), ("arm", "relative_bias_high", 1)])
def test_a_bias_that_was_not_seen_is_shown_by_its_upper_end(name: str, height: str, arrow: int) -> None:
    run = make_run([name], ["all"])
    (ax,) = one_figure(run, "bias-variance").axes
    (bars,) = ax.containers
    (row,) = run.summary.to_dict("records")
    assert bars[0].get_xdata()[0] == math.sqrt(row["relative_variance"])
    assert bars[0].get_ydata()[0] == pytest.approx(row[height])
    assert len([cap for cap in bars[1] if cap.get_marker() == CARETDOWNBASE]) == arrow


def test_no_variance_is_shown_on_the_left_edge() -> None:
    (ax,) = one_figure(make_run(["tanh"], ["all"]), "bias-variance").axes
    (bars,) = ax.containers
    assert bars[0].get_xdata()[0] == ax.get_xlim()[0]


def test_break_even_keeps_to_its_axes() -> None:
    run = make_run(layers=["all"])
    run.breakeven.loc[0, ["draws", "draws_low"]] = 0.0
    run.breakeven.loc[1, ["draws", "draws_high"]] = math.inf
    run.breakeven[["seconds", "seconds_low", "seconds_high"]] = math.nan
    figure = one_figure(run, "break-even")
    draws, seconds = figure.axes
    points = [line.get_xdata()[0] for line in draws.lines if line.get_marker() != "None"]
    assert (min(points), max(points)) == draws.get_xlim()
    assert len(points) == len(run.breakeven)
    assert [text.get_text() for text in seconds.texts] == ["no finite value"]


def test_break_even_with_many_unbiased_estimators_is_a_table() -> None:
    """Numbers where markers would cover each other: never, from the start, undefined, and ~ with a wide interval."""
    run = make_run(["reinforce", "arm", "ram", "rloo", "st", "psa"], ["all"])
    run.breakeven.loc[0:3, ["draws", "draws_low", "draws_high"]] = [
        [0.0] * 3,
        [math.inf] * 3,
        [math.nan] * 3,
        [8, 2, 9],
    ]
    draws, seconds = one_figure(run, "break-even").axes
    words = [text.get_text() for text in draws.texts]
    assert len(words) == len(seconds.texts) == 8
    pairs = [tuple(pair) for pair in run.breakeven[["biased", "unbiased"]].to_numpy()]
    rows, columns = ["st", "psa"], ["reinforce", "arm", "ram", "rloo"]
    found = dict(zip(itertools.product(rows, columns), words, strict=True))
    assert [found[pair] for pair in pairs[:4]] == ["0", "never", "–", "~8.0"]


def test_no_share_of_variance_is_drawn_where_the_yardsticks_are_one() -> None:
    run = make_run(["reinforce", "ram", "arm", "st"], ["1", "head", "all"])
    head = (run.variance_reduction["layer"] == "head") & (run.variance_reduction["estimator"] == "arm")
    run.variance_reduction.loc[head, ["share_low", "share_high"]] = [-math.inf, math.inf]
    assert [ax.get_title() for ax in one_figure(run, "variance-reduction").axes] == ["layer 1", "all layers"]


def test_heat_map_tells_a_bias_that_was_not_seen_from_one_that_was() -> None:
    bias, _ = one_figure(make_run(["arm", "st"], ["1", "all"], undefined=["1"]), "heat-map").axes
    assert [text.get_text() for text in bias.texts] == ["–", "<0.046", "–", "0.18"]


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0344, "0.034"), (0.0, "0"), (1.0, "1.0"), (0.996, "1.00"), (87.4, "87"), (2.3e-5, "2e-5"), (math.nan, "–")],
)
def test_numbers_in_cells(value: float, words: str) -> None:
    assert _short(value) == words


def test_files_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    run = make_run(["reinforce", "st"], ["all"])
    first, second = save_run_figures(run, tmp_path / "a"), save_run_figures(run, tmp_path / "b")
    assert {path.name for path in first} == {
        f"{name}.{extension}" for name in RUN_FIGURES for extension in ("svg", "png", "pdf")
    }
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in first}  # nothing left beside


def test_a_figure_that_a_run_lacks_does_not_survive_from_an_earlier_one(tmp_path: Path) -> None:
    save_run_figures(make_run(["st"], ["all"]), tmp_path)
    save_run_figures(make_run(["st"], ["all"], points=False), tmp_path)
    assert not list(tmp_path.glob("data.*"))
    assert list(tmp_path.glob("rmse.*"))


def test_the_reader_s_settings_do_not_change_a_figure() -> None:
    run = make_run(["st"], ["all"])
    usual = render(one_figure(run, "rmse"), "svg")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5, "axes.grid": True, "text.color": "red"}):
        assert render(one_figure(run, "rmse"), "svg") == usual
