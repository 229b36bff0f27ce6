"""Baselines: what a file keeps of a run, and that a damaged file is refused in one line that names the place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradeval import GradevalError, evaluate
from gradeval.analysis.comparison.baseline import Baseline, EstimatorFigures, LayerFigures


@pytest.fixture(scope="module")
def baseline(make_problem) -> Baseline:
    return Baseline.of(evaluate(make_problem((2, 2)), ["st", "reinforce", "tanh"], draws=200, exact="never"))


def corrupt(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def damage(text: str) -> str:
        document = json.loads(text)
        change(document)
        return json.dumps(document)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:100], "not a JSON file"),
        (lambda text: "[]", "must hold a JSON object, found list"),
        (lambda text: "{}", "format: this version reads 'gradeval-baseline/1', found None"),
        (lambda text: "[" * 100_000, "not a JSON file"),
        (corrupt(lambda d: d.update(format="gradeval-run/1")), "found 'gradeval-run/1'"),
        (corrupt(lambda d: d.pop("norms")), "missing required field `norms`"),
        (corrupt(lambda d: d.update(estimators={})), "estimators: there must be at least one"),
        (corrupt(lambda d: d.update(fingerprint=7)), "fingerprint: expected `str`, got `int`"),
        (corrupt(lambda d: d["slices"].update({"1": [5, 2]})), "slices.1: must be two whole numbers"),
        (corrupt(lambda d: d["slices"].pop("1")), "slices: must name the same layers as norms"),
        (corrupt(lambda d: d["estimators"]["st"].update(draws=True)), "estimators.st.draws: expected `int`, got"),
        (corrupt(lambda d: d["estimators"]["st"].update(draws=1)), "estimators.st.draws: expected `int` >= 2"),
        (corrupt(lambda d: d["estimators"]["st"]["bias"].pop()), "st.bias: must be a list of 15 numbers, found 14"),
        (
            corrupt(lambda d: d["estimators"]["st"]["bias"].__setitem__(3, math.nan)),
            r"st.bias\[3\]: must be a finite number, found NaN",
        ),
        (corrupt(lambda d: d.update(seed=-math.inf)), "seed: must be a finite number, found -Infinity"),
        (lambda text: text.replace('"seed":0', '"seed":0,"seed":0'), "the key 'seed' stands twice"),
        (
            lambda text: re.sub(r'"bias":\[[^,]*', '"bias":[1e999', text, count=1),
            r"estimators.st.bias\[0\]: expected `float` < 1e\+?300",
        ),
        (
            corrupt(lambda d: d["estimators"]["st"]["layers"]["1"].update(cosine=[2, 0])),
            r"estimators.st.layers.1.cosine\[0\]: expected `float` <= 1.0",
        ),
        (
            corrupt(lambda d: d["estimators"]["st"]["layers"]["1"].update(variance=[-1, 0])),
            r"estimators.st.layers.1.variance\[0\]: expected `float` >= 0.0",
        ),
        (corrupt(lambda d: d["estimators"]["st"]["layers"].pop("head")), "estimators.st.layers.head: missing"),
        (corrupt(lambda d: d["estimators"].update(st=[])), "estimators.st: expected `object`, got `array`"),
        (corrupt(lambda d: d["estimators"]["st"]["layers"].update(all={})), "estimators.st.layers.all: .*`variance`"),
    ],
)
def test_damaged_baselines_are_refused_in_one_line(
    baseline, tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    path = baseline.save(tmp_path / "b.json")
    path.write_text(damage(path.read_text()))
    with pytest.raises(GradevalError, match=message) as caught:
        Baseline.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_baselines(baseline, tmp_path: Path) -> None:
    with pytest.raises(GradevalError, match="neither the folder of a run nor a baseline file"):
        Baseline.read(tmp_path / "absent")
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(GradevalError, match="exists and is no baseline file"):
        baseline.save(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(GradevalError, match="larger than the limit"):
        Baseline.read(tmp_path / "large.json")


def test_a_spectrum_in_a_file_keeps_its_sum(baseline) -> None:
    for one in baseline.estimators.values():
        assert isinstance(one, EstimatorFigures)
        for layer, figures in one.layers.items():
            assert isinstance(figures, LayerFigures)
            size = baseline.slices[layer].stop - baseline.slices[layer].start
            rest = size - len(figures.spectrum)
            assert figures.spectrum.sum() + rest * figures.spectrum[-1] == pytest.approx(figures.variance, rel=1e-9)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values of a JSON document."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [path, *(place for key in keys for place in places(document[key], (*path, key)))][bool(not path) :]


def test_a_value_in_the_place_of_any_other(baseline, tmp_path: Path) -> None:
    """Whatever stands where, a file is read or refused in one line that names it."""
    path = baseline.save(tmp_path / "b.json")
    document = json.loads(path.read_text())

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.sampled_from(places(document)), VALUES)
    def check(place: tuple[Any, ...], value: Any) -> None:
        changed = node = deepcopy(document)
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
        path.write_text(json.dumps(changed))
        message = str(path)
        try:
            Baseline.read(path)
        except GradevalError as error:
            message = str(error)
        assert message.startswith(str(path))
        assert len(message.splitlines()) == 1

    check()
