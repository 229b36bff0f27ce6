"""Planted changes are found, what is too small is not, and input from strangers is refused in one line."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from gradeval import Evaluation, GradevalError, evaluate
from gradeval.analysis.comparison.compare import Baseline, EstimatorFigures, LayerFigures, compare
from gradeval.analysis.statistics import change_test, ratio_test, shift_test, variance_of_difference
from gradeval.estimators import psa

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
        (lambda text: "[]", "format: this version reads 'gradeval-baseline/1', found None"),
        (lambda text: "[" * 100_000, "not a JSON file"),
        (corrupt(lambda d: d.update(format="gradeval-run/1")), "found 'gradeval-run/1'"),
        (corrupt(lambda d: d.pop("norms")), "norms: missing"),
        (corrupt(lambda d: d.update(estimators={})), "estimators: none"),
        (corrupt(lambda d: d.update(fingerprint=7)), "fingerprint: must be a text, found '7'"),
        (corrupt(lambda d: d["slices"].update({"1": [5, 2]})), "slices.1: must be two whole numbers"),
        (corrupt(lambda d: d["slices"].pop("1")), "slices: must name the same layers as norms"),
        (corrupt(lambda d: d["estimators"]["st"].update(draws=True)), "estimators.st.draws: must be a whole number"),
        (corrupt(lambda d: d["estimators"]["st"].update(draws=1)), "estimators.st.draws: must be at least 2, found 1"),
        (corrupt(lambda d: d["estimators"]["st"]["bias"].pop()), "estimators.st.bias: must be a list of 15 numbers"),
        (
            corrupt(lambda d: d["estimators"]["st"]["bias"].__setitem__(3, math.nan)),
            r"estimators.st.bias\[3\]: must be a finite number, found 'nan'",
        ),
        (
            corrupt(lambda d: d["estimators"]["st"]["layers"]["1"].update(cosine=[2, 0])),
            "layers.1.cosine: must be a cosine",
        ),
        (
            corrupt(lambda d: d["estimators"]["st"]["layers"]["1"].update(variance=[-1, 0])),
            r"layers.1.variance\[0\]: must be a finite number of at least 0, found '-1'",
        ),
        (corrupt(lambda d: d["estimators"]["st"]["layers"].pop("head")), "estimators.st.layers.head: missing"),
        (corrupt(lambda d: d["estimators"].update(st=[])), "estimators.st.layers: missing"),
    ],
)
def test_damaged_baselines_are_refused_in_one_line(
    baselines, tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    path = baselines[0].save(tmp_path / "b.json")
    path.write_text(damage(path.read_text()))
    with pytest.raises(GradevalError, match=message) as caught:
        Baseline.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_baselines(baselines, tmp_path: Path) -> None:
    with pytest.raises(GradevalError, match="neither the folder of a run nor a baseline file"):
        Baseline.read(tmp_path / "absent")
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(GradevalError, match="exists and is no baseline file"):
        baselines[0].save(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(GradevalError, match="larger than 16 MiB"):
        Baseline.read(tmp_path / "large.json")


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


def gradeval(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from gradeval.program.app import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=120)


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


@pytest.mark.parametrize("margin", [0.0, 0.5, 10.0])
def test_shift_test_has_its_level_and_its_power(margin: float) -> None:
    """500 Gaussian replicates with the change at the margin, and at the detectable size, along the widest direction.

    Rejections at 0.05 within the binomial limits at 1e-6 (one point of approximation allowed), power at least 0.95.
    """
    random = np.random.default_rng(1)
    variances = np.array([1.0, 0.5, 0.1, 0.01])
    noise = random.normal(size=(500, 4)) * np.sqrt(variances)
    detectable = shift_test(1.0, variances, margin, 10**6).detectable(0.05)
    for size in (margin, detectable):
        sizes = np.linalg.norm(noise + size * np.array([1.0, 0, 0, 0]), axis=1)
        rejected = sum(shift_test(float(d), variances, margin, 10**6).pvalue < 0.05 for d in sizes)
        if size == margin:
            assert stats.binom.ppf(1e-6, 500, 0.04) <= rejected <= stats.binom.isf(1e-6, 500, 0.06)
        else:
            assert rejected >= stats.binom.ppf(1e-6, 500, 0.95)
    aside = np.linalg.norm(noise + margin * np.array([0, 0, 0, 1.0]), axis=1)
    rejected = sum(shift_test(float(d), variances, margin, 10**6).pvalue < 0.05 for d in aside)
    assert rejected <= stats.binom.isf(1e-6, 500, 0.06)


def test_shift_test_knows_that_the_variance_is_estimated() -> None:
    """At n = 20, in one dimension, p-values are near Student's two-sided ones, not the normal's."""
    for t in (3.0, 5.0):
        found = shift_test(t, np.ones(1), 0.0, 19).pvalue
        assert 0.3 < found / (2 * stats.t.sf(t, 19)) < 3
        assert found > 2 * 2 * stats.norm.sf(t)


@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
def test_change_test_has_its_level_and_its_power(margin: float) -> None:
    """1000 normal replicates at the margin and at the detectable size: binomial limits at 1e-6."""
    noise = np.random.default_rng(2).normal(size=1000)
    detectable = change_test(0.0, 1.0, 10**6, margin).detectable(0.05)
    at_margin = sum(change_test(margin + e, 1.0, 10**6, margin).pvalue < 0.05 for e in noise)
    assert stats.binom.ppf(1e-6, 1000, 0.05) <= at_margin <= stats.binom.isf(1e-6, 1000, 0.05)
    assert sum(change_test(detectable + e, 1.0, 10**6, margin).pvalue < 0.05 for e in noise) >= stats.binom.ppf(
        1e-6, 1000, 0.95
    )


def moments(sample: np.ndarray) -> tuple[float, float]:
    """Variance of the draws, [n, P], and its standard error."""
    squares = ((sample - sample.mean(0)) ** 2).sum(1)
    return squares.mean(), squares.std() / math.sqrt(len(squares))


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_ratio_test_has_its_level_and_its_power(margin: float) -> None:
    """1000 pairs of 500 and 2000 normal draws, at the margin and at the detectable size: binomial limits at 1e-6."""
    random, draws = np.random.default_rng(5), (500, 2000)

    def rejected(factor: float) -> int:
        count = 0
        for _ in range(1000):
            sides = [moments(scale * random.normal(size=(n, 2))) for n, scale in zip(draws, (1, factor), strict=True)]
            values, errors = zip(*sides, strict=True)
            count += ratio_test(values, errors, draws, margin).pvalue < 0.05
        return count

    one, other = moments(random.normal(size=(500, 2))), moments(random.normal(size=(2000, 2)))
    detectable = ratio_test((one[0], other[0]), (one[1], other[1]), draws, margin).detectable(0.05)
    at_margin = rejected(math.sqrt(1 + margin))
    assert stats.binom.ppf(1e-6, 1000, 0.02) <= at_margin <= stats.binom.isf(1e-6, 1000, 0.05)
    assert rejected(math.sqrt(1 + detectable)) >= stats.binom.ppf(1e-6, 1000, 0.93)  # detectable is itself estimated


@pytest.mark.parametrize(
    ("probability", "size", "noise", "draws"),
    [(1e-4, 100.0, 0.1, (20_000, 20_000)), (1e-3, 30.0, 1.0, (2000, 2000)), (1e-4, 1.0, 0.0, (5000, 5000)),
     (1e-3, 1.0, 0.0, (20_000, 2000)), (1e-3, 100.0, 1.0, (2000, 20_000))],
)  # fmt: skip
def test_a_rare_state_is_no_change(probability: float, size: float, noise: float, draws: tuple[int, int]) -> None:
    """Drawn a few times or never on one side. 1000 pairs of the same code, at 1e-3 each: binomial limit at 1e-6."""
    random = np.random.default_rng(6)

    def run(n: int) -> tuple[float, float, float, float]:
        rare = size * random.binomial(n, probability) / n
        second = size * rare - rare**2  # noise enters by its own, independent, moments
        variance = second + noise**2 * random.chisquare(2 * n) / n
        return rare, second / n, variance, math.sqrt((size**3 * rare + 4 * noise**4) / n)

    bias = variance = 0
    for _ in range(1000):
        (m1, s1, v1, e1), (m2, s2, v2, e2) = map(run, draws)
        error = math.sqrt(variance_of_difference((s1, s2), draws) + noise**2 * (1 / draws[0] + 1 / draws[1]))
        bias += change_test(m2 - m1, error, min(draws) - 1, 0.0).pvalue < 1e-3
        variance += ratio_test((v1, v2), (e1, e2), draws, 0.0).pvalue < 1e-3
    assert max(bias, variance) <= stats.binom.isf(1e-6, 1000, 1e-3)


def test_draws_that_are_all_as_far_from_their_mean_have_an_error_of_the_variance(make_problem) -> None:
    """Draws of ±1 in two directions, 200 against 20,000 of them: V̂ differs by 2/n at random, and no more is known.

    2000 pairs at 1e-3; binomial limit at 1e-6. By the spread of ‖g − E g‖² alone about one in a hundred was found.
    """
    run = evaluate(make_problem((2,)), ["st"], draws=40, seed=0, exact="never")
    layer, where = next(iter(run.slices.items()))
    assert where.start == 0
    size, square = len(run.exact), len(run.exact)
    random, found = np.random.default_rng(8), 0

    def side(n: int) -> tuple[float, float]:
        signs = 2 * random.binomial(n, 0.5, size=2) / n - 1  # means of independent directions
        moments = run.moments["st"]
        moments.mean[:size], moments.covariance[:] = 0.0, 0.0
        moments.mean[:2] = signs
        moments.covariance[0, 0], moments.covariance[1, 1] = (1 - signs**2) * n / (n - 1)
        run.moments["st"] = replace(moments, draws=n)
        moments.mean[square], moments.covariance[square, square] = 2.0, 0.0
        return run.variance("st", layer)

    for _ in range(2000):
        (old, old_error), (new, new_error) = side(200), side(20_000)
        found += ratio_test((old, new), (old_error, new_error), (200, 20_000), 1e-4).pvalue < 1e-3
    assert found <= stats.binom.isf(1e-6, 2000, 1e-3)


def test_a_change_without_error_is_decided_by_the_margin() -> None:
    assert change_test(0.1, 0.0, 10, 0.1).pvalue == 1
    assert change_test(-0.2, 0.0, 10, 0.1).pvalue == 0
    assert ratio_test((1.0, 1.05), (0.0, 0.0), (10, 10), 0.1).pvalue == 1
    assert ratio_test((1.0, 0.5), (0.0, 0.0), (10, 10), 0.1).pvalue == 0
    assert ratio_test((0.0, 0.0), (0.0, 0.0), (10, 10), 0.1).pvalue == 1
    assert ratio_test((1e200, 3e200), (1e198, 1e198), (99, 99), 0.1).pvalue < 1e-9  # squares stay in range
    assert ratio_test((1.0, 0.0), (0.9, 0.0), (10, 10), 0.1).pvalue > 0.1  # one rare draw on one side
    assert shift_test(0.2, np.zeros(3), 0.1, 10).pvalue == 0
    assert shift_test(0.1, np.zeros(3), 0.1, 10).pvalue == 1
    assert shift_test(0.1, np.zeros(3), 0.1, 10).detectable(0.05) == 0.1


def test_a_spectrum_in_a_file_keeps_its_sum(baselines) -> None:
    for one in baselines[0].estimators.values():
        assert isinstance(one, EstimatorFigures)
        for layer, figures in one.layers.items():
            assert isinstance(figures, LayerFigures)
            size = baselines[0].slices[layer].stop - baselines[0].slices[layer].start
            rest = size - len(figures.spectrum)
            assert figures.spectrum.sum() + rest * figures.spectrum[-1] == pytest.approx(figures.variance, rel=1e-9)
