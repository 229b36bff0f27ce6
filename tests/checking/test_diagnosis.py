"""Planted faults, each named in words."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gradeval.checking.battery import ROWS, battery_problems, make_problem
from gradeval.checking.procedure import check
from gradeval.estimators import get_estimator

pytestmark = pytest.mark.no_shapes

FAULTS = sorted((Path(__file__).parents[1] / "faults").glob("*.py"))


PAIR = [make_problem(ROWS[0]), make_problem(ROWS[5])]


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def fault(name: str):
    return module_of(Path(__file__).parents[1] / "faults" / f"{name}.py").estimator


@pytest.mark.parametrize("path", FAULTS, ids=lambda path: path.stem)
def test_planted_faults_are_failed_with_the_right_words(path: Path) -> None:
    module = module_of(path)
    verdict = check(module.estimator, unbiased=True, problems=battery_problems(), workers=1)
    assert (verdict.verdict, verdict.exit_code) == ("fails", 1)
    assert module.WORDS in "\n".join(verdict.diagnosis), verdict
    assert module.WORDS in str(verdict)


def test_factors_that_few_problems_do_not_tell_apart_are_all_named() -> None:
    """Planted: ¼ = ½ · ½, on two nets of 4 points; the number of points alone was named. The battery tells it."""

    def quarter(network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        return 0.75 * value.detach() + 0.25 * value

    four = [make_problem(replace(row, points=4)) for row in (ROWS[5], ROWS[0])]
    (said, *_) = check(quarter, unbiased=True, problems=four).diagnosis
    apart = ": these problems do not tell them apart"
    assert f"times 1 / the number of data points (scale 0.25), or times ¼{apart}" in said
    (said, *_) = check(quarter, unbiased=True, problems=four[:1]).diagnosis
    assert "1 / the number of data points (scale 0.25): these problems do not tell it from 1 / " in said
    assert said.endswith(" others")
    (said, *_) = check(quarter, unbiased=True, problems=[four[0], make_problem(ROWS[0])]).diagnosis
    assert said == "all layers and the head: the exact gradient times ¼ (scale 0.25)"


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 15


def test_the_value_is_not_blamed_for_a_wrong_gradient() -> None:
    verdict = check(fault("sign"), unbiased=True, problems=PAIR)
    assert verdict.diagnosis[-1] == "the value is right on every problem: the error is in the gradient only"
