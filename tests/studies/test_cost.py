"""What an estimate costs: the counters, the table, how costs grow, and `gradeval cost`."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from gradeval.analysis.scaling import are_supported, fit_exponents, scaling_figure
from gradeval.estimators import TABLE, get_estimator
from gradeval.program.cost import show_cost
from gradeval.studies.costs import (
    FUNCTION,
    GrowingNets,
    Meter,
    cost_table,
    count_operations,
    linear_problem,
    one_gradient,
    scaling_table,
    seconds_in_turn,
)
from tests.programs import gradeval

THEORY = {  # of evaluations and FLOPs with depth, and with width
    "back-propagation": (1, 1, 0, 2),
    "st": (1, 1, 0, 2),
    "psa": (1, 1, 1, 2),
    "leg": (1, 1, 1, 2),
    "arm": (2, 2, 0, 2),
    "ram": (2, 2, 1, 3),
}


def test_the_meter_counts() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    with Meter() as meter:
        c = a @ b  # 2·3·4·5
        d = c + c  # 15
        e = torch.sigmoid(d)  # 15
        e.add_(1)  # 15
        e.sum()  # 15
        e.view(5, 3)
        a.mT.clone()
    assert meter.products == 2 * 3 * 4 * 5
    assert (meter.operations, meter.functions) == (60, 15)
    counts = count_operations(lambda: torch.sigmoid(a))
    assert counts == {"product_flops": 0, "elementwise": 12, "elementwise_plain": 12 * FUNCTION, "bytes": 48}


def test_the_meter_follows_memory() -> None:
    with Meter() as meter:
        a = torch.zeros(1000)
        for _ in range(5):
            b = torch.zeros(500)
            del b
        c = a.view(10, 100)  # no new memory
        del a
        d = torch.zeros(250)
    assert meter.peak == 4 * 1500
    assert meter.current == 4 * 1250
    del c, d
    assert meter.current == 0


def test_flops_of_back_propagation_are_those_of_its_products() -> None:
    """Forward and weight gradient of every layer and the head, and the states' gradient of all but the first."""
    subject = linear_problem([6, 7], inputs=5, points=3)
    pairs = [5 * 6, 6 * 7, 7 * 1]
    counts = count_operations(one_gradient(subject, get_estimator("tanh")))
    assert counts["product_flops"] == 2 * 3 * (3 * sum(pairs) - pairs[0])


def test_the_table_has_every_estimator() -> None:
    subject = linear_problem([3, 2], inputs=2, points=2)
    table = cost_table(subject, list(TABLE), budget=0.0)
    assert len(table) == 1 + len(TABLE)
    row = table.set_index(table["estimator"].str.split(":").str[0])
    for name, facts in TABLE.items():
        samples = getattr(get_estimator(name), "samples", 0)
        found = (row.loc[name, "layer_evaluations"], row.loc[name, "loss_evaluations"])
        assert found == facts.evaluations([3, 2], samples), name
    assert (table.filter(like="relative_").iloc[0] == 1).all()
    assert row.loc["tanh", "relative_flops"] == 1
    assert (table[["flops", "bytes", "seconds"]] > 0).all(axis=None)


@pytest.fixture(scope="module")
def growth() -> pd.DataFrame:
    return scaling_table(nets=GrowingNets((6, 8, 10, 12, 16, 20), (96, 104, 112, 128, 144, 160)), budget=0.0)


def test_fitted_exponents_contain_the_theorys(growth) -> None:
    fits = fit_exponents(growth, ["evaluations", "flops"])
    for name, theory in THEORY.items():
        for (axis, quantity), exponent in zip(
            [(a, q) for a in ("depth", "width") for q in ("evaluations", "flops")], theory, strict=True
        ):
            (fit,) = fits[
                (fits["estimator"] == name) & (fits["axis"] == axis) & (fits["quantity"] == quantity)
            ].itertuples()
            assert fit.exponent_low - 1e-9 <= exponent <= fit.exponent_high + 1e-9, fit
            assert fit.exponent_high - fit.exponent_low < 0.5, fit  # no other whole number would do


def test_an_estimator_that_is_quadratic_is_not_taken_for_linear(growth) -> None:
    fits = fit_exponents(growth, ["flops"]).set_index(["estimator", "axis"])
    assert fits.loc[("ram", "depth"), "exponent_low"] > 1.5
    assert fits.loc[("psa", "depth"), "exponent_high"] < 1.5


def test_exponents_of_noisy_times_are_those_that_made_them() -> None:
    """95 % intervals of 200 made-up series: covered 180 to 198 times, false alarm below 2e-3."""
    random = np.random.default_rng(0)
    size, covered = np.array([4.0, 8, 16, 32, 64]), 0
    for _ in range(200):
        seconds = 1e-3 * size**1.5 * np.exp(0.2 * random.standard_normal(5))
        table = pd.DataFrame({"estimator": "x", "axis": "depth", "size": size, "seconds": seconds})
        (fit,) = fit_exponents(table, ["seconds"]).itertuples()
        covered += fit.exponent_low <= 1.5 <= fit.exponent_high
    assert 180 <= covered <= 198


def test_the_figure_shows_every_estimator(growth) -> None:
    figure = scaling_figure(growth, fit_exponents(growth)).figure
    assert figure is not None
    assert len(figure.axes) == 6
    for ax in figure.axes:
        assert len(ax.lines) == len(THEORY)
        assert len(ax.texts) == len(THEORY)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(THEORY)


def test_the_command(tmp_path) -> None:
    path, out = tmp_path / "problem.json", tmp_path / "out"
    linear_problem([2, 2], inputs=2, points=2).save(path)
    command = ["cost", path, "--estimators", "psa,st", "--growing", ""]
    rows = json.loads(gradeval(*command, "--json", cwd=tmp_path).stdout)["cost"]
    assert [row["estimator"] for row in rows] == ["back-propagation", "psa", "st"]
    done = gradeval(*command, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "psa" in done.stdout
    assert [path.name for path in out.iterdir()] == ["cost.csv"]
    failed = gradeval(*command, "--out", out, cwd=tmp_path)
    assert failed.returncode == 2
    assert "not empty" in failed.stderr


def test_the_command_shows_growth(growth, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    show_cost(growth[growth["size"] == 6], fit_exponents(growth))
    shown = capsys.readouterr().out
    assert "2.00 [" in shown
    assert "p [interval]" in shown


def test_an_exponent_that_the_times_do_not_support_is_not_shown(capsys, monkeypatch) -> None:
    """As found on a busy machine: −1.80 [−13.5, 9.9]."""
    monkeypatch.setenv("COLUMNS", "200")
    sizes = [4.0, 8.0, 16.0]
    made = {"size": sizes, "evaluations": sizes, "flops": sizes, "seconds": sizes}
    table = pd.concat([pd.DataFrame({"estimator": "st", "axis": axis, **made}) for axis in ("depth", "width")])
    fits = fit_exponents(table)
    poor = (fits["quantity"] == "seconds") & (fits["axis"] == "width")
    fits.loc[poor, ["exponent", "exponent_low", "exponent_high"]] = [-1.8, -13.5, 9.9]
    assert are_supported(fits).tolist() == (~poor).tolist()
    show_cost(cost_table(linear_problem([2], inputs=2, points=2), ["st"], budget=0.0), fits)
    shown = capsys.readouterr().out
    assert "1.00 [" in shown
    assert "13.5" not in shown
    assert "support no exponent" in shown
    texts = [text.get_text() for ax in scaling_figure(table, fits).values() for text in ax.texts]
    assert sorted(texts) == ["1.00"] * 5 + ["?"]


def test_two_sizes_support_no_exponent() -> None:
    table = pd.DataFrame({"estimator": "x", "axis": "depth", "size": [2.0, 4.0], "seconds": [1.0, 2.0]})
    assert not are_supported(fit_exponents(table, ["seconds"])).any()


def test_times_are_taken_in_turn_on_one_thread() -> None:
    calls, threads = [], set()

    def call(name: str) -> None:
        calls.append(name)
        threads.add(torch.get_num_threads())
        sum(range(20_000 if name == "b" else 2000))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        functions = {name: partial(call, name) for name in "abc"}
        found = seconds_in_turn(functions, torch.device("cpu"), budget=0.003)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == {1}
    assert calls[:6] == list("abcabc")
    assert calls.count("a") == len(found["a"]) == len(found["c"]) > len(found["b"])  # a slow one has fewer rounds
    assert all(seconds >= 0 for name in "abc" for seconds in found[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_costs_on_a_gpu() -> None:
    subject = linear_problem([3, 2], inputs=2, points=2).to("cuda")
    table = cost_table(subject, ["psa"], budget=0.0)
    assert (table["seconds"] > 0).all()
