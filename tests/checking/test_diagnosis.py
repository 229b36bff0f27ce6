"""Planted faults, each named in words."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from gradeval.checking.battery import ROWS, battery_problems, make_problem
from gradeval.checking.procedure import check

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


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 15


def test_the_value_is_not_blamed_for_a_wrong_gradient() -> None:
    verdict = check(fault("sign"), unbiased=True, problems=PAIR)
    assert verdict.diagnosis[-1] == "the value is right on every problem: the error is in the gradient only"
