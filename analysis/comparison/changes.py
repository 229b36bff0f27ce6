"""Two runs on the same problem: which estimators changed in bias, variance, cosine or cost, and is it a regression?

Both sides are reduced to a `Baseline`, whether they come from a run's folder or from a baseline file; so both compare
alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from gradeval.analysis.comparison.baseline import SMALLEST_TOLERANCE, Baseline, LayerFigures
from gradeval.analysis.comparison.formats import json_text, junit_text, markdown_text, sight
from gradeval.analysis.comparison.outcome import Measure, Outcome
from gradeval.analysis.hypotheses import ChangeTest, change_test, holm, ratio_test, shift_test, variance_of_difference
from gradeval.analysis.measures import EXACTLY_UNBIASED, bias_size, relative, relative_variance
from gradeval.analysis.statistics import Array
from gradeval.errors import GradevalError, unknown_name

UNIT_OF_TIME = "st"  # the estimator whose time a draw is the unit of cost, where both runs have it


@dataclass(frozen=True)
class Comparison:
    """What changed from OLD to NEW.

    Attributes:
        table: one row per estimator × layer × measure: ``old``, ``new``, ``change``, ``pvalue`` (NaN where nothing was
            sampled), ``pvalue_adjusted``, ``detectable`` and ``verdict`` (same, better, worse, missing, added).
            ``change`` is the distance of the mean gradients, relative to ‖g*‖, for the bias; new − old for the cosine;
            new/old − 1 for the others. ``detectable`` is the smallest change found with probability 0.95 at least.
        problem: its name.
        alpha, tolerance, cost_factor, reference: as used.
        notes: what the reader should know.
    """

    table: pd.DataFrame
    problem: str
    alpha: float
    tolerance: float
    cost_factor: float
    reference: str | None
    notes: list[str]

    @property
    def changed(self) -> pd.DataFrame:
        """The rows with a verdict other than "same", regressions first."""
        rows = self.table[self.table["verdict"] != Outcome.SAME]
        return rows.sort_values("verdict", key=lambda verdicts: ~_are_regressions(verdicts), kind="stable")

    @property
    def regressions(self) -> pd.DataFrame:
        """The rows that are worse or missing."""
        return self.table[_are_regressions(self.table["verdict"])]

    @cached_property
    def answer(self) -> str:
        """What changed, in a sentence or two."""
        rows = self.changed
        if rows.empty:
            return f"Nothing changed in {len(self.table)} comparisons."
        parts = []
        for outcome in (Outcome.WORSE, Outcome.MISSING, Outcome.BETTER, Outcome.ADDED):
            found = rows[rows["verdict"] == outcome].groupby("estimator", sort=False)["layer"].unique()
            names = [
                f"{name} ({', '.join(layers)})" if outcome in (Outcome.WORSE, Outcome.BETTER) else name
                for name, layers in found.items()
            ]
            if names:
                parts.append(f"{outcome}: {', '.join(names)}")
        return f"{'Regression' if len(self.regressions) else 'No regression'}. {'; '.join(parts)}."

    def to_json(self) -> str:
        """Everything, as one JSON object.

        Returns:
            The object; an infinite cost factor is null.
        """
        facts = {key: getattr(self, key) for key in ("problem", "alpha", "tolerance", "reference", "notes", "answer")}
        facts |= {"cost_factor": self.cost_factor if math.isfinite(self.cost_factor) else None}
        return json_text(facts | {"regression": len(self.regressions) > 0}, self.table)

    def to_markdown(self) -> str:
        """The answer, a table of what changed and the notes.

        Returns:
            Markdown in which no name turns into markup.
        """
        return markdown_text(self.answer, self.changed, self.notes)

    def to_junit(self) -> str:
        """JUnit XML: one test case per comparison, one failure per regression.

        Returns:
            The document.
        """
        return junit_text(self.table)


def _are_regressions(verdicts: pd.Series) -> pd.Series:
    return verdicts.isin([outcome for outcome in Outcome if outcome.is_regression])


def compare(
    old: Baseline,
    new: Baseline,
    *,
    alpha: float = 0.001,
    tolerance: float = 0.02,
    cost_factor: float = 2.0,
    reference: str | None = None,
) -> Comparison:
    """Find which estimators changed, by two-sample tests with Holm's adjustment over all of them.

    With t = ``tolerance``, a test rejects, for one estimator and layer,

    * bias: ‖E g_new − E g_old‖ ≤ t ‖g*‖, by ‖ḡ_new − ḡ_old‖² (`shift_test`); it is worse unless ‖E g − g*‖ fell;
    * variance: |log(V_new/V_old)| ≤ log(1 + t), by V_new − (1 + t) V_old and the converse (`ratio_test`);
    * cosine: |c_new − c_old| ≤ t, by Welch's statistic (`change_test`).

    Errors are never below those of both runs' draws taken together (`variance_of_difference`).

    Where both sides know bias and variance exactly these decide, without a test. Cost, for all layers together: time a
    draw as a multiple of the reference's in the same run, beyond ``cost_factor``; layer and loss evaluations, beyond
    1 + t. No p-value.

    Args:
        old: what the new run is judged by.
        new: the run to be judged, on the same problem.
        alpha: probability, at most, that any test finds a change where there is none beyond the tolerance.
        tolerance: what is too small to matter.
        cost_factor: the factor by which the time of a draw may grow; with infinity no times are compared.
        reference: the estimator whose time is the unit; `st`, or else the fastest that both have.

    Returns:
        The comparison.

    Raises:
        GradevalError: runs on different problems, or arguments out of range.
    """
    _check_arguments(alpha, tolerance, cost_factor)
    if old.fingerprint != new.fingerprint or dict(old.slices) != dict(new.slices):
        raise GradevalError(
            f"the runs are on different problems: '{old.problem}' ({old.fingerprint[:12]}) and '{new.problem}' "
            f"({new.fingerprint[:12]}). Compare runs on the same problem file, or make a new baseline."
        )
    common = [name for name in old.estimators if name in new.estimators]
    unit = _unit_of_time(reference, old, new, common) if cost_factor < math.inf else None
    rows: list[_Row] = []
    for name in common:
        rows += _accuracy_rows(name, old, new, tolerance)
        rows += _cost_rows(name, old, new, unit, (tolerance, cost_factor - 1))
    gone = [name for name in old.estimators if name not in new.estimators]
    added = [name for name in new.estimators if name not in old.estimators]
    rows += [_Row(name, "all", Measure.PRESENCE, verdict=Outcome.MISSING) for name in gone]
    rows += [_Row(name, "all", Measure.PRESENCE, verdict=Outcome.ADDED) for name in added]
    table = _decide(rows, alpha)
    notes = _notes(table, (alpha, tolerance, cost_factor), unit, old, new)
    return Comparison(table, new.problem, alpha, tolerance, cost_factor, unit, notes)


def _check_arguments(alpha: float, tolerance: float, cost_factor: float) -> None:
    if not 0 < alpha < 1:
        raise GradevalError(f"alpha must lie between 0 and 1, found {alpha}.")
    if not SMALLEST_TOLERANCE <= tolerance < 1:
        raise GradevalError(f"tolerance must lie between {SMALLEST_TOLERANCE:g} and 1, found {tolerance}.")
    if not cost_factor > 1:
        raise GradevalError(f"the cost factor must be above 1, found {cost_factor}.")


def _unit_of_time(name: str | None, old: Baseline, new: Baseline, common: list[str]) -> str | None:
    timed = [n for n in common if old.estimators[n].seconds > 0 and new.estimators[n].seconds > 0]
    if name is not None:
        if name not in timed:
            raise unknown_name("reference estimator (both runs must have it, with its time)", name, timed)
        return name
    if UNIT_OF_TIME in timed:
        return UNIT_OF_TIME
    return min(timed, key=lambda n: old.estimators[n].seconds, default=None)


def _notes(
    table: pd.DataFrame, settings: tuple[float, float, float], unit: str | None, old: Baseline, new: Baseline
) -> list[str]:
    alpha, tolerance, cost_factor = settings
    tests = int(table["pvalue"].notna().sum())
    notes = [
        f"{tests} tests, adjusted together by Holm's method at a family-wise error rate of {alpha:g}; changes up to "
        f"{tolerance:g} are too small to matter."
    ]
    notes += sight(table)
    if unit:
        notes.append(f"Time a draw is measured in draws of {unit}; a factor of {cost_factor:g} is allowed.")
    if old.seed == new.seed:
        notes.append(
            f"Both runs have seed {old.seed}: what has not changed gave the same draws. Where code has changed they "
            "are dependent, and alpha is no longer a guarantee: another seed gives one."
        )
    return notes + [
        f"{name} failed in the new run: {why}" for name, why in new.failures.items() if name in old.estimators
    ]


# --- the rows of the table ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A row of the table: it has either a test, which decides later, or its verdict."""

    estimator: str
    layer: str
    measure: Measure
    old: float = math.nan
    new: float = math.nan
    change: float = math.nan
    test: ChangeTest | None = None
    verdict: Outcome | None = None


def _ratio_row(estimator: str, layer: str, measure: Measure, values: tuple[float, float], margin: float) -> _Row:
    """A row without a test: new/old is held against 1 + margin."""
    change = _relative_change(*values)
    up, down = change > margin, change < 1 / (1 + margin) - 1
    verdict = Outcome.WORSE if up else Outcome.BETTER if down else Outcome.SAME
    return _Row(estimator, layer, measure, *values, change, verdict=verdict)


def _relative_change(old: float, new: float) -> float:
    return new / old - 1 if old else 0.0 if new == old else math.inf


def _cost_rows(name: str, old: Baseline, new: Baseline, unit: str | None, margins: tuple[float, float]) -> list[_Row]:
    """Evaluations, and the time in draws of the unit, with the margin of each."""
    evaluations = (old.estimators[name].evaluations, new.estimators[name].evaluations)
    rows = [_ratio_row(name, "all", Measure.EVALUATIONS, evaluations, margins[0])]
    if unit and name != unit:
        before, after = (run.estimators[name].seconds / run.estimators[unit].seconds for run in (old, new))
        if before > 0 and after > 0:
            rows.append(_ratio_row(name, "all", Measure.TIME, (before, after), margins[1]))
    return rows


@dataclass(frozen=True)
class _Pair:
    """One estimator in one layer, in the old run and in the new one: figures, mean errors g − g*, draws; ‖g*‖."""

    figures: tuple[LayerFigures, LayerFigures]
    errors: tuple[Array, Array]
    draws: tuple[int, int]
    norm: float

    @property
    def freedom(self) -> int:
        """Degrees of freedom of a test."""
        return min(self.draws) - 1


def _accuracy_rows(name: str, old: Baseline, new: Baseline, tolerance: float) -> list[_Row]:
    """Bias, variance and cosine in every layer that both know."""
    rows: list[_Row] = []
    one, two = old.estimators[name], new.estimators[name]
    for layer, where in old.slices.items():
        if layer not in one.layers or layer not in two.layers:
            continue
        figures = (one.layers[layer], two.layers[layer])
        pair = _Pair(figures, (one.bias[where], two.bias[where]), (one.draws, two.draws), new.norms[layer])
        known = (figures[0].exact, figures[1].exact)
        if known[0] is not None and known[1] is not None:
            rows += _exact_rows(name, layer, (known[0], known[1]), tolerance)
        else:
            rows.append(_bias_row(name, layer, pair, tolerance))
            rows.append(_variance_row(name, layer, pair, tolerance))
        rows.append(_cosine_row(name, layer, pair, tolerance))
    return rows


def _exact_rows(
    name: str, layer: str, known: tuple[tuple[float, float], tuple[float, float]], tolerance: float
) -> list[_Row]:
    """Exact bias and variance, which decide without a test."""
    biases, variances = (
        (0.0 if old < EXACTLY_UNBIASED else old, 0.0 if new < EXACTLY_UNBIASED else new)
        for old, new in zip(*known, strict=True)
    )
    change = biases[1] - biases[0]
    verdict = Outcome.SAME if abs(change) <= tolerance else Outcome.WORSE if change > 0 else Outcome.BETTER
    return [
        _Row(name, layer, Measure.BIAS, *biases, change, verdict=verdict),
        _ratio_row(name, layer, Measure.VARIANCE, variances, tolerance),
    ]


def _bias_row(name: str, layer: str, pair: _Pair, tolerance: float) -> _Row:
    one, two = pair.errors
    first, second = (_expand(x.spectrum, len(one)) / n for x, n in zip(pair.figures, pair.draws, strict=True))
    # eigenvalues of a sum of covariances are majorised by the sums of their sorted eigenvalues: a wider tail
    variances = variance_of_difference((first, second), pair.draws)
    distance = relative(float(np.linalg.norm(two - one)), pair.norm)
    before, after = (
        bias_size(relative_variance(float(error @ error), pair.norm), float(chance.sum()))
        for error, chance in ((one, first), (two, second))
    )
    change = bias_size(distance**2, float(variances.sum()))
    test = shift_test(distance, variances, tolerance, pair.freedom)
    return _Row(name, layer, Measure.BIAS, before, after, change, test)


def _variance_row(name: str, layer: str, pair: _Pair, tolerance: float) -> _Row:
    old, new = pair.figures
    errors = (old.variance * old.variance_error, new.variance * new.variance_error)
    test = ratio_test((old.variance, new.variance), errors, pair.draws, tolerance)
    change = _relative_change(old.variance, new.variance)
    return _Row(name, layer, Measure.VARIANCE, old.variance, new.variance, change, test)


def _cosine_row(name: str, layer: str, pair: _Pair, tolerance: float) -> _Row:
    old, new = pair.figures
    error = math.sqrt(variance_of_difference((old.cosine_error**2, new.cosine_error**2), pair.draws))
    change = new.cosine - old.cosine
    test = change_test(change, error, pair.freedom, tolerance)
    return _Row(name, layer, Measure.COSINE, old.cosine, new.cosine, change, test)


def _expand(spectrum: Array, size: int) -> Array:
    return np.append(spectrum, np.full(size - len(spectrum), spectrum[-1]))


def _decide(rows: list[_Row], alpha: float) -> pd.DataFrame:
    """Adjust the p-values together and give every row its verdict."""
    table = pd.DataFrame([vars(row) for row in rows])
    tests = table.pop("test")
    decided, sampled = tests.notna(), pd.Series([test is not None and test.sampled for test in tests])
    for key in ("pvalue", "pvalue_adjusted", "detectable"):
        table[key] = math.nan
    if sampled.any():
        pvalues = [test.pvalue for test in tests[sampled]]
        table.loc[sampled, "pvalue"] = pvalues
        table.loc[sampled, "pvalue_adjusted"] = holm(pvalues)
        level = alpha / len(pvalues)  # the strictest that Holm's method asks of a test
        table.loc[sampled, "detectable"] = [test.detectable(level) for test in tests[sampled]]
    for index in table.index[decided]:
        before, after = table.at[index, "old"], table.at[index, "new"]
        worse = after < before if table.at[index, "measure"] == Measure.COSINE else after >= before
        pvalue = table.at[index, "pvalue_adjusted"] if sampled[index] else tests[index].pvalue
        change = Outcome.WORSE if worse else Outcome.BETTER
        table.at[index, "verdict"] = change if pvalue < alpha else Outcome.SAME
    columns = ["estimator", "layer", "measure", "old", "new", "change", "pvalue", "pvalue_adjusted", "detectable"]
    return table[[*columns, "verdict"]]
