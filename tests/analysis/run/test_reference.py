"""The reference in words, for each method, and of a run whose manifest says nothing of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from gradeval import evaluate, load_problem
from gradeval.analysis.run.evaluation import Evaluation
from gradeval.analysis.run.reference import REFERENCE_METHODS, reference_sentence
from gradeval.errors import GradevalError
from gradeval.files import sealed
from gradeval.reference.cost import METHODS


def said(reference: dict[str, Any] | None) -> str:
    problem = {"widths": [100, 100], "points": 100}
    return reference_sentence(SimpleNamespace(manifest={"problem": problem, "reference": reference}))  # type: ignore[arg-type]


def test_the_transform_says_its_bound_rounded_up() -> None:
    facts = {"method": "transform", "states_log2": 200, "seconds": 2.1, "errors": {"1": 1.2e-11, "head": -1.0}}
    assert said(facts) == (
        "Reference, exact: 2^200 joint states for each of 100 points by the characteristic function of the last layer "
        "(transform), error below 2e-11 of ‖g*‖ in every layer that has a gradient, 2.10 s."
    )
    assert "error below 1e-10 of ‖g*‖ in every layer, " in said(facts | {"errors": {"1": 1e-10}})


def test_an_older_run_says_what_is_known() -> None:
    assert said(None) == "Reference, exact: 2^200 joint states for each of 100 points."


def test_every_method_has_words() -> None:
    assert {*METHODS, "sampled"} - {"auto"} == set(REFERENCE_METHODS)


@pytest.mark.parametrize("units", ["2-2", "30"])
def test_a_run_says_how_its_reference_was_made(units: str, tmp_path) -> None:
    """Saved and read again; without the entry, as older versions wrote it; with one that cannot be."""
    problem = load_problem("expclass", units=units, stage=0, points=4)
    found = evaluate(problem, ["st"], draws=20, exact="never")
    facts = found.manifest["reference"]
    assert (facts["method"] == "transform") == bool(facts["errors"]) == (units == "30")
    assert facts["states_log2"] == sum(problem.widths)
    assert facts["seconds"] > 0
    assert all(0 <= error < 1e-9 for error in facts["errors"].values())
    path = found.save(tmp_path / "run") / "manifest.json"
    assert reference_sentence(Evaluation.load(tmp_path / "run")) == reference_sentence(found)
    whole = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("digest", "reference")}
    path.write_bytes(sealed(whole))
    assert Evaluation.load(tmp_path / "run").reference is None
    path.write_bytes(sealed(whole | {"reference": facts | {"method": "guessed"}}))
    with pytest.raises(GradevalError, match=r"reference\.method: must be one of .*; found 'guessed'"):
        Evaluation.load(tmp_path / "run")
