"""Evaluations of one problem that are joined are what one evaluation of all estimators is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import gradeval
from gradeval.errors import GradevalError
from gradeval.evaluation.run import evaluate


@pytest.fixture(scope="module")
def parts(small):
    return [evaluate(small, name, draws=40) for name in ("st, psa", "reinforce")]


def test_joined_is_evaluated_together(small, parts, tmp_path: Path) -> None:
    whole, joined = evaluate(small, "st, psa, reinforce", draws=40), gradeval.concat(parts)
    for name in ("summary", "curves", "exact_moments", "pairs", "breakeven", "fits"):
        mine, theirs = (getattr(run, name) for run in (joined, whole))
        timings = [column for column in theirs if column.startswith("seconds")]
        pd.testing.assert_frame_equal(mine.drop(columns=timings), theirs.drop(columns=timings))
    loaded = gradeval.Evaluation.load(joined.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(loaded.summary, joined.summary)


def test_the_same_estimator_twice(parts) -> None:
    with pytest.raises(GradevalError, match="estimator 'psa' is in two of the evaluations"):
        gradeval.concat([parts[0], parts[0]])
    joined = gradeval.concat({"old": parts[0], "new": parts[0]})
    assert set(joined.summary["estimator"]) == {"st (old)", "psa (old)", "st (new)", "psa (new)"}
    same = joined.pairs.query("one == 'st (old)' and two == 'st (new)'")
    assert len(same)
    assert (same["square"] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "must have the same seed, found 0 and 1"),
        ({"draws": 41}, "must have the same draws, found 40 and 41"),
        ({"detect": 0.1}, "must have the same detect"),
    ],
)
def test_what_differs_is_refused(parts, change: dict[str, object], message: str) -> None:
    other = replace(parts[1], manifest=parts[1].manifest | change)
    with pytest.raises(GradevalError, match=message):
        gradeval.concat([parts[0], other])


def test_other_problems_are_refused(parts, make_problem) -> None:
    other = evaluate(make_problem((2,), seed=1), "reinforce", draws=40)
    for given, message in (
        ([parts[0], other], "of different problems"),
        ([parts[0], 3], "found a int"),
        ([], "no eval"),
    ):
        with pytest.raises(GradevalError, match=message):
            gradeval.concat(given)
