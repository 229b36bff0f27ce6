"""Evaluations against a sampled reference: end to end, resumed, refused, and never silently."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gradeval import GradevalError, evaluate, load_problem
from gradeval.analysis.comparison.baseline import Baseline
from gradeval.analysis.run.evaluation import Evaluation
from gradeval.analysis.run.reference import reference_sentence
from gradeval.analysis.run.summary import BiasVerdict
from gradeval.evaluation.reference import SPECS, candidates
from gradeval.reference import Precision

ROUGH = Precision(0.1, 20.0)
NAMES = ["reinforce", "st", "psa"]


@pytest.fixture(scope="module")
def problem():
    return load_problem("expclass", units="3-3", stage=0, points=10)


@pytest.fixture(scope="module", params=[2**30, 2**13])
def run(problem, request, tmp_path_factory):
    """With a covariance of all parameters, and with means of blocks in its place."""
    folder = tmp_path_factory.mktemp("run") / "out"
    return evaluate(problem, NAMES, draws=1000, folder=folder, reference=ROUGH, working_memory=request.param), folder


def test_candidates_are_unbiased() -> None:
    assert list(candidates()) == list(SPECS)


def test_exact_truth_is_inside(problem, run) -> None:
    """Bias, variance and scale of an exact run lie in the intervals, or nearly: 12 rows, of which one may miss."""
    exact = evaluate(problem, NAMES, draws=100).exact_moments.set_index(["estimator", "layer"])
    summary = run[0].summary.set_index(["estimator", "layer"])
    for key in ("relative_bias", "relative_variance", "scale"):
        truth = exact[f"exact_{key}"]
        inside = (summary[f"{key}_low"] <= truth + 1e-9) & (truth <= summary[f"{key}_high"])
        assert inside.sum() >= len(inside) - 1, key
    assert not summary["verdict"].str.contains("exactly").any()


def test_it_is_never_silent(run) -> None:
    evaluation, _ = run
    facts = evaluation.manifest["reference"]
    assert facts["draws"] >= 512
    assert facts["estimator"] in SPECS
    said = reference_sentence(evaluation)
    assert f"sampled by {facts['estimator']}, {facts['draws']:,} draws" in said
    notes = [entry["notes"] for entry in evaluation.manifest["estimators"].values()]
    assert all("no exact moments: the reference is sampled" in note for note in notes)
    assert evaluation.exact_moments.empty


def test_saved_and_loaded(run) -> None:
    evaluation, folder = run
    again = Evaluation.load(folder)
    left = [column for column in evaluation.summary if "second" in column]
    for table in ("summary", "pairs", "best_curves"):
        one, two = (getattr(e, table).drop(columns=left, errors="ignore") for e in (evaluation, again))
        assert one.equals(two), table


def test_resumed_with_the_reference_of_the_beginning(problem, run, tmp_path) -> None:
    """More draws extend a run and keep r̄; another reference, or an exact one, is refused; a damaged file, too."""
    evaluation, folder = run
    memory = json.loads((folder / "plan.json").read_text())["memory"]
    longer = evaluate(problem, NAMES, draws=1500, folder=folder, reference=Precision(0.5), working_memory=memory)
    assert (longer.exact == evaluation.exact).all()
    once = evaluate(problem, ["st"], draws=100, reference=Precision(0.3), working_memory=memory)
    assert once.manifest["reference"]["draws"] >= 512
    with pytest.raises(GradevalError, match="a run of another reference"):
        evaluate(problem, NAMES, draws=1000, folder=folder, working_memory=memory)
    path = folder / "reference.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(GradevalError, match="is not the reference of this run"):
        evaluate(problem, NAMES, draws=1000, folder=folder, reference="sampled", working_memory=memory)
    path.write_bytes(content)


def test_what_is_too_large_is_refused_with_a_way_out() -> None:
    wide = load_problem("expclass", units="64-64", stage=0, points=3)
    with pytest.raises(GradevalError, match="--reference sampled"):
        evaluate(wide, ["st"], draws=20)
    with pytest.raises(GradevalError, match="exact cannot be 'always'"):
        evaluate(wide, ["st"], draws=20, exact="always", reference="sampled")
    with pytest.raises(GradevalError, match="unknown reference 'sampeld'"):
        evaluate(wide, ["st"], draws=20, reference="sampeld")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("expclass", {"units": "64-64", "stage": 0, "points": 3}),
        ("vae", {"units": "24", "points": 5, "decoder": "6"}),
    ],
)
def test_where_nothing_is_exact(name: str, options: dict) -> None:
    """Two layers of 64, and a vae with a tanh decoder, small here; what is claimed is not refuted."""
    found = evaluate(
        load_problem(name, **options), ["st", "disarm"], draws=100, reference=Precision(0.3, 5.0), working_memory=2**22
    )
    rows = found.summary[found.summary["estimator"].eq("disarm")]
    assert set(rows["verdict"].map(lambda verdict: BiasVerdict(verdict).short)) <= {"holds", "undecided"}
    assert np.isfinite(found.summary["relative_variance"].dropna()).all()


def test_what_is_not_told_from_zero_is_undecided(problem) -> None:
    """A reference of so few draws of REINFORCE that a layer's norm is not known decides nothing there."""
    from gradeval.evaluation import reference

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "SPECS", ("reinforce",))
        large = load_problem("expclass", units="5-5-5", stage=0, points=3)
        found = evaluate(large, ["reinforce"], draws=50, reference=Precision(1e-3, 1e-3))
    unmeasured = [layer for layer, norm in found.norms.items() if norm == 0]
    rows = found.summary[found.summary["layer"].isin(unmeasured)]
    assert len(unmeasured)
    assert set(rows["verdict"]) == {BiasVerdict.UNMEASURED}
    assert rows["relative_bias"].isna().all()
    assert all(math.isinf(1 / norm) if not norm else norm > 0 for norm in found.norms.values() if norm)


def test_no_baseline_of_it(run) -> None:
    with pytest.raises(GradevalError, match="this one was sampled"):
        Baseline.of(run[0])
