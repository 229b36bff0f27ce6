"""Planted changes are found, what is too small is not, and no name turns into markup."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from scipy import stats

from gradeval import Evaluation, GradevalError, evaluate
from gradeval.analysis.comparison.baseline import Baseline
from gradeval.analysis.comparison.changes import compare
from gradeval.analysis.comparison.outcome import Measure, Outcome
from gradeval.analysis.numbers import layer_title, significant
from gradeval.estimators import psa
from tests.programs import gradeval

SPECS = ["st", "reinforce", "psa", "tanh"]


@pytest.fixture(scope="module")
def runs(make_problem) -> list[Evaluation]:
    """Two runs of the same code on the same problem, with other draws; nothing exact."""
    return [evaluate(make_problem((2, 2)), SPECS, draws=2000, seed=seed, exact="never") for seed in (0, 1)]


@pytest.fixture(scope="module")
def baselines(runs) -> tuple[Baseline, Baseline]:
    old, new = map(Baseline.of, runs)
    return old, new


def with_figures(baseline: Baseline, name: str, **changes: Any) -> Baseline:
    one = replace(baseline.estimators[name], **changes)
    return replace(baseline, estimators={**baseline.estimators, name: one})


def in_layer(baseline: Baseline, name: str, layer: str, **changes: Any) -> Baseline:
    layers = dict(baseline.estimators[name].layers)
    layers[layer] = replace(layers[layer], **changes)
    return with_figures(baseline, name, layers=layers)


def found(old: Baseline, new: Baseline, **options: Any) -> set[tuple[str, ...]]:
    options = {"cost_factor": math.inf} | options
    rows = compare(old, new, **options).changed
    return set(zip(rows["estimator"], rows["layer"], rows["measure"], rows["verdict"], strict=True))


def test_the_same_run_has_not_changed(baselines, tmp_path: Path) -> None:
    """Nor has its file, whose numbers are rounded; at the smallest tolerance and a loose alpha."""
    old, _ = baselines
    read = Baseline.read(old.save(tmp_path / "b.json"))
    for other in (old, read):
        comparison = compare(old, other, tolerance=1e-4, alpha=0.5)
        assert comparison.changed.empty
        assert comparison.answer.startswith("Nothing changed")
        assert any("seed 0" in note for note in comparison.notes)


def test_other_draws_of_the_same_code_have_not_changed(baselines) -> None:
    """One comparison at a false-alarm rate of 1e-6; each estimator has bias, variance and cosine in every layer."""
    comparison = compare(*baselines, alpha=1e-6, tolerance=1e-4, cost_factor=math.inf)
    assert comparison.changed.empty
    sampled = comparison.table[comparison.table["pvalue"].notna()]
    assert len(sampled) == 3 * 4 * 3  # `tanh` is deterministic
    assert not any("seed" in note for note in comparison.notes)


def without_head_flips() -> Callable[..., Any]:
    """PSA's own code, with ∇f(x) alone for the head's gradient."""
    source = inspect.getsource(psa)
    flips = "value = (stay * f + (1 - stay) * f_flipped).mean(0)"
    assert flips in source
    names: dict[str, Any] = {"__name__": psa.__name__}
    exec(compile(source.replace(flips, "value = f"), "psa without head flips", "exec"), names)
    return names["PathSampleAnalytic"].__call__


@pytest.mark.parametrize("exact", ["never", "auto"])
def test_psa_without_its_head_flips_goes_red(make_problem, monkeypatch, tmp_path: Path, exact: str) -> None:
    problem = make_problem((2, 2))
    specs = ["st", "psa"]
    evaluate(problem, specs, draws=2000, exact=exact).save(tmp_path / "old")
    monkeypatch.setattr(psa.PathSampleAnalytic, "__call__", without_head_flips())
    evaluate(problem, specs, draws=2000, seed=1, exact=exact).save(tmp_path / "new")
    file = Baseline.read(tmp_path / "old").save(tmp_path / "baseline.json")
    assert file.stat().st_size < 4000
    for old in (tmp_path / "old", file):
        regressions = compare(Baseline.read(old), Baseline.read(tmp_path / "new"), cost_factor=math.inf).regressions
        assert {("psa", "head", "variance")} <= set(
            zip(regressions["estimator"], regressions["layer"], regressions["measure"], strict=True)
        )
        assert set(regressions["estimator"]) == {"psa"}
        assert set(regressions["layer"]) <= {"head", "all"}


def shifted(baseline: Baseline, name: str, layer: str, share: float) -> Baseline:
    """The mean gradient of one layer moved by a share of ‖g*‖."""
    bias, where = baseline.estimators[name].bias.copy(), baseline.slices[layer]
    bias[where] += share * baseline.norms[layer] / math.sqrt(where.stop - where.start)
    return with_figures(baseline, name, bias=bias)


def test_planted_changes_are_found_and_nothing_else(baselines) -> None:
    old, new = baselines
    figures = new.estimators["st"].layers["1"]
    worse = shifted(new, "psa", "2", 0.5)
    assert ("psa", "2", "bias", "worse") in found(old, worse)
    assert {row[:2] for row in found(old, worse)} <= {("psa", "2"), ("psa", "all")}
    assert ("psa", "2", "bias", "better") in found(worse, old)
    dearer = in_layer(new, "st", "1", variance=2 * figures.variance)
    assert found(old, dearer) == {("st", "1", "variance", "worse")}
    assert found(dearer, old) == {("st", "1", "variance", "better")}
    turned = in_layer(new, "st", "1", cosine=figures.cosine - 0.2)
    assert found(old, turned) == {("st", "1", "cosine", "worse")}
    assert found(turned, old) == {("st", "1", "cosine", "better")}
    more = with_figures(new, "reinforce", evaluations=1.5 * new.estimators["reinforce"].evaluations)
    assert found(old, more) == {("reinforce", "all", "evaluations", "worse")}
    noisy = in_layer(new, "tanh", "1", variance=0.1, variance_error=0.05)
    assert ("tanh", "1", "variance", "worse") in found(old, noisy)


def test_deterministic_estimators_are_compared_without_a_test(baselines) -> None:
    old, new = baselines
    assert ("tanh", "2", "bias", "worse") in found(old, shifted(new, "tanh", "2", 0.2), tolerance=0.19)
    assert not found(old, shifted(new, "tanh", "2", 0.2), tolerance=0.21)


def test_exact_figures_decide_where_both_have_them(baselines) -> None:
    old, new = (in_layer(b, "st", "1", exact=(0.3, 2.0)) for b in baselines)
    assert not found(old, new)
    assert found(old, in_layer(new, "st", "1", exact=(0.33, 2.0))) == {("st", "1", "bias", "worse")}
    assert found(old, in_layer(new, "st", "1", exact=(0.27, 2.1))) == {
        ("st", "1", "bias", "better"),
        ("st", "1", "variance", "worse"),
    }
    assert not found(old, in_layer(new, "st", "1", exact=(0.31, 2.01)))
    unbiased, rounded = (in_layer(b, "st", "1", exact=(e, 2.0)) for b, e in ((old, 1e-17), (new, 1e-13)))
    assert not found(unbiased, rounded, tolerance=1e-4)
    # changed at once in what is sampled: the exact figures overrule
    assert not found(old, shifted(new, "st", "1", 0.5)) & {("st", "1", "bias", "worse")}


def test_time_is_a_multiple_of_the_references(baselines) -> None:
    old, new = (
        replace(b, estimators={name: replace(one, seconds=1e-5) for name, one in b.estimators.items()})
        for b in baselines
    )
    slow = with_figures(new, "psa", seconds=3e-5)
    assert found(old, slow, cost_factor=2.0) == {("psa", "all", "time", "worse")}
    assert found(slow, old, cost_factor=2.0) == {("psa", "all", "time", "better")}
    assert not found(old, slow, cost_factor=3.5)
    machine = replace(
        new, estimators={name: replace(one, seconds=7 * one.seconds) for name, one in new.estimators.items()}
    )
    assert not found(old, machine, cost_factor=1.1)
    assert compare(old, slow, reference="psa").reference == "psa"
    with pytest.raises(GradevalError, match=r"reference estimator .* 'pas': did you mean psa"):
        compare(old, new, reference="pas")
    untimed = with_figures(new, "st", seconds=math.nan)
    assert compare(old, untimed).reference in ("reinforce", "psa", "tanh")


def test_missing_is_a_regression_and_added_is_not(baselines) -> None:
    old, new = baselines
    fewer = replace(new, estimators={k: v for k, v in new.estimators.items() if k != "psa"}, failures={"psa": "NaN"})
    comparison = compare(old, fewer, cost_factor=math.inf)  # no times: the machine may be busy
    assert list(comparison.regressions["verdict"]) == ["missing"]
    assert "missing: psa" in comparison.answer
    assert "psa failed in the new run: NaN" in comparison.notes
    back = compare(fewer, old, cost_factor=math.inf)
    assert back.regressions.empty
    assert list(back.changed["verdict"]) == ["added"]


def test_detectable_is_at_the_strictest_level_of_holms_method(baselines) -> None:
    """A change that some test finds whatever the others say: α over the number of tests; planted: α itself."""
    alpha, tolerance = 0.01, 0.02
    table = compare(*baselines, alpha=alpha, tolerance=tolerance, cost_factor=math.inf).table
    tests = int(table["pvalue"].notna().sum())
    assert tests == 36
    assert (table["detectable"].notna() == table["pvalue"].notna()).all()
    rows = table.set_index(["estimator", "layer", "measure"])["detectable"]
    for name, layer in (("st", "1"), ("psa", "all")):
        errors = [b.estimators[name].layers[layer].cosine_error for b in baselines]
        quantiles = stats.t.isf(alpha / tests / 2, 1999) + stats.norm.ppf(0.95)
        expected = tolerance + math.hypot(*errors) * quantiles
        assert rows[name, layer, Measure.COSINE] == pytest.approx(expected, rel=1e-9)
        assert expected > tolerance + math.hypot(*errors) * (stats.t.isf(alpha / 2, 1999) + 1.645) * 1.2


def test_a_change_of_the_detectable_size_is_found(baselines) -> None:
    """What `detectable` promises with probability 0.95 is sure where it exceeds the change that was drawn by far."""
    old, new = baselines
    rows = compare(old, new, cost_factor=math.inf).table.set_index(["estimator", "layer", "measure"])
    change = 1.5 * rows.loc[("st", "1", Measure.COSINE), "detectable"]
    turned = in_layer(new, "st", "1", cosine=old.estimators["st"].layers["1"].cosine - change)
    assert found(old, turned) == {("st", "1", Measure.COSINE, Outcome.WORSE)}


def test_what_could_have_been_seen_is_said(baselines) -> None:
    """Of each measure the smallest and the largest detectable change; planted: a cosine of which none can be seen."""
    old, new = baselines
    comparison = compare(old, new, cost_factor=math.inf)
    (said,) = (note for note in comparison.notes if note.startswith("Changes that a test"))
    for measure, factor in ((Measure.BIAS, 1), (Measure.VARIANCE, 100), (Measure.COSINE, 1)):
        rows = comparison.table[comparison.table["measure"] == measure].dropna(subset="detectable")
        worst = rows.loc[rows["detectable"].idxmax()]
        ends = (significant(factor * size, 2) for size in (rows["detectable"].min(), rows["detectable"].max()))
        for part in (*ends, f"({worst['estimator']}, {layer_title(worst['layer'])})"):
            assert part in said.partition(f"{measure} ")[2].partition(";")[0]
    assert "8 changes of bias or variance are compared without a test, known exactly" in " ".join(comparison.notes)
    assert said in comparison.to_markdown().replace("\\*", "*")
    blind = compare(old, in_layer(new, "st", "1", cosine_error=3.0), cost_factor=math.inf)
    assert "to none at all (st, layer 1)" in " ".join(blind.notes)


def test_different_problems_are_refused(baselines, make_problem) -> None:
    other = Baseline.of(evaluate(make_problem((2, 2), seed=1), ["st"], draws=20))
    with pytest.raises(GradevalError, match=r"different problems: 'problem' \([0-9a-f]{12}\)"):
        compare(baselines[0], other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must lie between 0 and 1, found 0"),
        ({"tolerance": 0.0}, "tolerance must lie between 0.0001 and 1, found 0"),
        ({"tolerance": math.nan}, "tolerance must lie"),
        ({"cost_factor": 1.0}, "cost factor must be above 1"),
    ],
)
def test_arguments_out_of_range(baselines, options: dict[str, float], message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        compare(*baselines, **options)


HOSTILE = 'x|<b>&"\x00\x1b[31m`[a](b)`]]>\nnext'


def test_every_output_survives_hostile_names(baselines) -> None:
    old, new = (replace(b, estimators={HOSTILE: b.estimators["st"]}, problem=HOSTILE) for b in baselines)
    slow = with_figures(new, HOSTILE, evaluations=1e6)
    comparison = compare(old, slow)
    document = json.loads(comparison.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert document["regression"] is True
    assert {row["estimator"] for row in document["rows"]} == {HOSTILE}
    suite = ElementTree.fromstring(comparison.to_junit())
    assert (suite.get("tests"), suite.get("failures")) == (str(len(comparison.table)), "1")
    (failure,) = suite.iter("failure")
    assert failure.get("message", "").startswith("worse: ")
    assert len(list(suite.iter("testcase"))) == len(comparison.table)
    text = comparison.to_markdown()
    (row,) = (line for line in text.splitlines() if "evaluations" in line and line.startswith("|"))
    assert len([c for i, c in enumerate(row) if c == "|" and row[i - 1] != "\\"]) == 9
    assert "<b>" not in text


def test_the_documented_gate_runs(make_problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of docs/ci.md, as it stands there but for the number of draws."""
    text = (Path(__file__).parents[3] / "docs" / "ci.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    problem = make_problem((2, 2))
    problem.save("problem.json")
    Path("mine.py").write_text("from gradeval.estimators import get_estimator\n\nmy_estimator = get_estimator('arm')\n")
    specs = ["st", "psa", "mine.py:my_estimator"]
    Baseline.of(evaluate(problem, specs, draws=200)).save("gradeval-baseline.json")
    names: dict[str, Any] = {}
    exec(block.replace("20_000", "200"), names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psa.PathSampleAnalytic, "__call__", without_head_flips())
        with pytest.raises(AssertionError, match=r"Regression\. worse: psa"):
            names["test_no_regression"]()


def test_the_program(runs, baselines, tmp_path: Path) -> None:
    runs[0].save(tmp_path / "old")
    runs[1].save(tmp_path / "new")
    made = gradeval("baseline", "old", "--out", "b.json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("b.json: ")
    same = gradeval("compare", "b.json", "new", "--cost-factor", "inf", "--junit", "j.xml", cwd=tmp_path)
    assert same.returncode == 0, same.stderr
    assert "Nothing changed" in same.stdout
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == "0"
    figures = baselines[1].estimators["psa"].layers["head"]
    in_layer(baselines[1], "psa", "head", variance=3 * figures.variance).save(tmp_path / "worse.json")
    for form, words in (("--json", '"regression": true'), ("--markdown", "| psa | head | variance |"), (None, "psa")):
        options = ["--cost-factor", "inf", *filter(None, [form])]
        red = gradeval("compare", "b.json", "worse.json", *options, cwd=tmp_path)
        assert red.returncode == 1, red.stderr
        assert words in red.stdout
    better = gradeval("compare", "worse.json", "b.json", "--cost-factor", "inf", cwd=tmp_path)
    assert better.returncode == 0
    assert "No regression. better: psa (head)." in better.stdout
    refused = gradeval("compare", "b.json", "nowhere", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("gradeval: nowhere is neither")
