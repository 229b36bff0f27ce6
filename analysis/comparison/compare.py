"""Two runs on the same problem: which estimators changed in bias, variance, cosine or cost, and is it a regression?

Both sides are reduced to a `Baseline`, the few figures that the tests need, whether they come from a run's folder or
from a baseline file of about a kilobyte an estimator; so both compare alike.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from gradeval.analysis.run.tables import EXACTLY_UNBIASED, Evaluation
from gradeval.analysis.statistics import Array, change_test, ratio_test, shift_test, variance_of_difference
from gradeval.errors import GradevalError, unknown_name

FORMAT = "gradeval-baseline/1"
MAX_FILE_BYTES = 16 * 2**20
DIGITS = 5  # significant digits of sampled figures in a file
SMALLEST_TOLERANCE = 1e-4  # what DIGITS can tell
LEADING = 6  # eigenvalues of a covariance that are kept one by one; of the others their mean
REFERENCE = "st"  # whose time a draw is the unit of cost, where both runs have it

BIAS, VARIANCE, COSINE, TIME, EVALUATIONS = MEASURES = ("bias", "variance", "cosine", "time", "evaluations")
SAME, BETTER, WORSE, MISSING, ADDED = "same", "better", "worse", "missing", "added"
REGRESSIONS = (WORSE, MISSING)


@dataclass(frozen=True)
class LayerFigures:
    """One estimator's figures in one layer; "relative" is to ‖g*‖, of the variance and its spectrum to ‖g*‖².

    Attributes:
        variance: relative variance tr Σ of one draw.
        variance_error: standard error of its logarithm.
        cosine: mean cosine of one draw and g*.
        cosine_error: its standard error.
        spectrum: the largest eigenvalues of Σ, relative, in descending order; the last stands for all that remain.
        exact: relative bias and variance without sampling; None where unknown.
    """

    variance: float
    variance_error: float
    cosine: float
    cosine_error: float
    spectrum: Array
    exact: tuple[float, float] | None


@dataclass(frozen=True)
class EstimatorFigures:
    """One estimator's figures: mean of g − g*, [P], and by layer; ``seconds`` is NaN where unknown."""

    draws: int
    seconds: float
    evaluations: float
    bias: Array
    layers: Mapping[str, LayerFigures]


@dataclass(frozen=True)
class Baseline:
    """What a run is compared by.

    Attributes:
        fingerprint, problem: identity and name of the problem.
        seed: of the draws.
        norms: ‖g*‖ by layer; layers where it is zero have no figures.
        slices: where each layer's parameters lie in g*.
        estimators: by name.
        failures: estimators that have no figures, and why.
    """

    fingerprint: str
    problem: str
    seed: int
    norms: Mapping[str, float]
    slices: Mapping[str, slice]
    estimators: Mapping[str, EstimatorFigures]
    failures: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Evaluation) -> Baseline:
        """The figures of a run."""
        exact = run.exact_moments.set_index(["estimator", "layer"])[["exact_relative_bias", "exact_relative_variance"]]
        known = {key: (float(bias), float(variance)) for key, bias, variance in exact.itertuples()}
        estimators = {}
        for name, moments in run.moments.items():
            layers = {}
            for layer in run.slices:
                if not (norm := run.norms[layer]):
                    continue
                variance, error = run.variance(name, layer)
                cosine, cosine_variance = moments.cosine(layer)
                layers[layer] = LayerFigures(
                    variance / norm**2,
                    error / variance if variance else 0.0,
                    float(cosine),
                    math.sqrt(cosine_variance / moments.draws),
                    _spectrum(moments.spread(layer) / norm**2),
                    known.get((name, layer)),
                )
            facts = run.manifest["estimators"][name]
            estimators[name] = EstimatorFigures(
                moments.draws,
                run.manifest["timings"].get("seconds_per_draw", {}).get(name, math.nan),
                facts["layer_evaluations"] + facts["loss_evaluations"],
                moments.mean[: len(run.exact)],
                layers,
            )
        problem, failures = run.manifest["problem"], run.manifest.get("failures", {})
        seed = run.manifest["seed"]
        return cls(problem["fingerprint"], problem["name"], seed, run.norms, run.slices, estimators, failures)

    @classmethod
    def read(cls, path: str | Path) -> Baseline:
        """Of a run's folder, or from a baseline file.

        Raises:
            GradevalError: neither of them, or damaged; the message names the place.
        """
        path = Path(path)
        if path.is_dir():
            run = Evaluation.load(path)
            try:
                return cls.of(run)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise GradevalError(f"{path}: a damaged run ({type(error).__name__}: {error}).") from None
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise GradevalError(f"larger than {MAX_FILE_BYTES >> 20} MiB, so no baseline file.")
            return _from_document(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise GradevalError(
                f"{path} is neither the folder of a run nor a baseline file ({error.strerror})."
            ) from None
        except (UnicodeDecodeError, RecursionError, ValueError) as error:
            raise GradevalError(f"{path}: not a JSON file ({str(error).splitlines()[0]}).") from None
        except GradevalError as error:
            raise GradevalError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> Path:
        """Write the baseline file, whole or not at all; an older baseline there is replaced.

        Raises:
            GradevalError: something else stands there, or it cannot be written.
        """
        path = Path(path)
        if path.exists():
            try:
                self.read(path)
            except GradevalError:
                raise GradevalError(f"{path} exists and is no baseline file: choose another name.") from None
            if path.is_dir():
                raise GradevalError(f"{path} is a folder: choose the name of a file.")
        text = (
            json.dumps(self._document(), separators=(",", ":")).replace('},"', '},\n"').replace('"bias":', '\n"bias":')
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
                (Path(folder) / "baseline").write_text(text + "\n", encoding="utf-8")
                (Path(folder) / "baseline").replace(path)
        except OSError as error:
            raise GradevalError(f"cannot write {path}: {error.strerror}.") from None
        return path

    def _document(self) -> dict[str, Any]:
        def layer(figures: LayerFigures) -> dict[str, Any]:
            return {
                "variance": _short([figures.variance, figures.variance_error]),
                "cosine": _short([figures.cosine, figures.cosine_error]),
                "spectrum": _short(figures.spectrum),
                "exact": None if figures.exact is None else list(figures.exact),
            }

        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "problem": self.problem,
            "seed": self.seed,
            "norms": dict(self.norms),
            "slices": {name: [where.start, where.stop] for name, where in self.slices.items()},
            "estimators": {
                name: {
                    "draws": one.draws,
                    "seconds": None if math.isnan(one.seconds) else _short([one.seconds])[0],
                    "evaluations": one.evaluations,
                    "bias": _short(one.bias),
                    "layers": {name: layer(figures) for name, figures in one.layers.items()},
                }
                for name, one in self.estimators.items()
            },
        }


def _spectrum(covariance: Array) -> Array:
    values = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0.0)
    if len(values) <= LEADING + 1:
        return values
    return np.append(values[:LEADING], values[LEADING:].mean())


def _short(values: Any) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


# --- reading a file from anyone -----------------------------------------------------------------------------------


def _from_document(document: Any) -> Baseline:
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise GradevalError(f"format: this version reads '{FORMAT}', found {found!r}.")
    norms = {name: _number(v, f"norms.{name}", low=0.0) for name, v in _entry(document, "norms", dict, "").items()}
    slices = {}
    for name, ends in _entry(document, "slices", dict, "").items():
        start, stop = _numbers(ends, f"slices.{name}", 2, low=0.0)
        if not (start.is_integer() and stop.is_integer() and start < stop):
            raise GradevalError(f"slices.{name}: must be two whole numbers, the first below the second; found {ends}.")
        slices[name] = slice(int(start), int(stop))
    if norms.keys() != slices.keys() or not norms:
        raise GradevalError("slices: must name the same layers as norms, at least one.")
    estimators = {
        name: _estimator(value, f"estimators.{name}.", norms, slices)
        for name, value in _entry(document, "estimators", dict, "").items()
    }
    if not estimators:
        raise GradevalError("estimators: none.")
    fingerprint, problem = (_entry(document, key, str, "") for key in ("fingerprint", "problem"))
    return Baseline(fingerprint, problem, _entry(document, "seed", int, ""), norms, slices, estimators)


def _estimator(value: Any, place: str, norms: Mapping[str, float], slices: Mapping[str, slice]) -> EstimatorFigures:
    size = max(where.stop for where in slices.values())
    layers = {}
    for name, figures in _entry(value, "layers", dict, place).items():
        if not norms.get(name):
            raise GradevalError(f"{place}layers: '{name}' is no layer with a gradient in norms.")
        layers[name] = _layer(figures, f"{place}layers.{name}.", slices[name].stop - slices[name].start)
    for name, norm in norms.items():
        if norm and name not in layers:
            raise GradevalError(f"{place}layers.{name}: missing.")
    draws = _entry(value, "draws", int, place)
    if draws < 2:
        raise GradevalError(f"{place}draws: must be at least 2, found {draws}.")
    seconds = None if value.get("seconds") is None else _number(value["seconds"], f"{place}seconds", low=0.0)
    return EstimatorFigures(
        draws,
        math.nan if seconds is None else seconds,
        _number(_entry(value, "evaluations", (int, float), place), f"{place}evaluations", low=0.0),
        _numbers(_entry(value, "bias", list, place), f"{place}bias", size),
        layers,
    )


def _layer(value: Any, place: str, size: int) -> LayerFigures:
    variance, variance_error = _numbers(_entry(value, "variance", list, place), f"{place}variance", 2, low=0.0)
    cosine, cosine_error = _numbers(_entry(value, "cosine", list, place), f"{place}cosine", 2, low=-1.0)
    if cosine > 1 or cosine_error < 0:
        raise GradevalError(f"{place}cosine: must be a cosine and a standard error, found {value['cosine']}.")
    count = size if size <= LEADING + 1 else LEADING + 1
    exact = value.get("exact")
    known = None if exact is None else _numbers(exact, f"{place}exact", 2, low=0.0)
    return LayerFigures(
        float(variance),
        float(variance_error),
        float(cosine),
        float(cosine_error),
        _numbers(_entry(value, "spectrum", list, place), f"{place}spectrum", count, low=0.0),
        None if known is None else (float(known[0]), float(known[1])),
    )


def _entry(value: Any, key: str, kind: Any, place: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        raise GradevalError(f"{place}{key}: missing.")
    if not isinstance(value[key], kind) or isinstance(value[key], bool):
        words = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}.get(kind, "a number")
        raise GradevalError(f"{place}{key}: must be {words}, found {str(value[key])[:40]!r}.")
    return value[key]


def _number(value: Any, place: str, low: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < 1e300 or value < -1e300:
        least = "" if low == -math.inf else f" of at least {low:g}"
        raise GradevalError(f"{place}: must be a finite number{least}, found {str(value)[:40]!r}.")
    return float(value)


def _numbers(value: Any, place: str, count: int, low: float = -math.inf) -> Array:
    if not isinstance(value, list) or len(value) != count:
        found = len(value) if isinstance(value, list) else f"{str(value)[:40]!r}"
        raise GradevalError(f"{place}: must be a list of {count} numbers, found {found}.")
    return np.array([_number(v, f"{place}[{i}]", low) for i, v in enumerate(value)])


# --- the comparison -----------------------------------------------------------------------------------------------


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
        rows = self.table[self.table["verdict"] != SAME]
        return rows.sort_values("verdict", key=lambda v: ~v.isin(REGRESSIONS), kind="stable")

    @property
    def regressions(self) -> pd.DataFrame:
        """The rows that are worse or missing."""
        return self.table[self.table["verdict"].isin(REGRESSIONS)]

    @cached_property
    def answer(self) -> str:
        """One sentence."""
        rows = self.changed
        if rows.empty:
            return f"Nothing changed in {len(self.table)} comparisons."
        parts = []
        for verdict in (WORSE, MISSING, BETTER, ADDED):
            found = rows[rows["verdict"] == verdict].groupby("estimator", sort=False)["layer"].unique()
            names = [
                f"{name} ({', '.join(layers)})" if verdict in (WORSE, BETTER) else name
                for name, layers in found.items()
            ]
            if names:
                parts.append(f"{verdict}: {', '.join(names)}")
        return f"{'Regression' if len(self.regressions) else 'No regression'}. {'; '.join(parts)}."

    def to_json(self) -> str:
        """Everything, as one JSON object."""
        facts = {key: getattr(self, key) for key in ("problem", "alpha", "tolerance", "reference", "notes", "answer")}
        facts |= {"cost_factor": self.cost_factor if math.isfinite(self.cost_factor) else None}
        rows = json.loads(self.table.to_json(orient="records", double_precision=15))
        return json.dumps(facts | {"regression": len(self.regressions) > 0, "rows": rows}, allow_nan=False)

    def to_markdown(self) -> str:
        """The answer, a table of what changed and the notes."""
        lines = [f"### gradeval compare: {_markdown(self.answer)}", ""]
        if len(self.changed):
            lines += ["| estimator | layer | measure | old | new | change | p (adjusted) | verdict |"]
            lines += ["|---|---|---|---:|---:|---:|---:|---|"]
            lines += [f"| {' | '.join(map(_markdown, cells(row)))} |" for row in self.changed.itertuples()]
            lines += [""]
        lines += [f"- {_markdown(note)}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def to_junit(self) -> str:
        """JUnit XML: one test case per comparison, one failure per regression."""
        failures = len(self.regressions)
        suite = ElementTree.Element(
            "testsuite", name="gradeval compare", tests=str(len(self.table)), failures=str(failures), errors="0"
        )
        for row in self.table.itertuples():
            name = " ".join(filter(None, (_layer_words(row.layer), row.measure))) or row.verdict
            case = ElementTree.SubElement(suite, "testcase", classname=_xml(row.estimator), name=_xml(name))
            if row.verdict in REGRESSIONS:
                _, _, _, old, new, change, pvalue, _ = cells(row)
                words = f"{row.verdict}: {old} → {new} (change {change}, adjusted p {pvalue})"
                message = "the new run lacks it" if row.verdict == MISSING else words
                ElementTree.SubElement(case, "failure", message=_xml(message), type=row.verdict)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def cells(row: Any) -> tuple[str, ...]:
    """A row of the table as text: estimator, layer, measure, old, new, change, adjusted p-value, verdict."""

    def text(value: float, form: str = ".4g") -> str:
        return "" if math.isnan(value) else format(value, form)

    relative = row.measure in (VARIANCE, TIME, EVALUATIONS)
    return (
        row.estimator,
        row.layer,
        row.measure,
        text(row.old),
        text(row.new),
        text(row.change, "+.1%" if relative else ".4g" if row.measure == BIAS else "+.4g"),
        "< 1e-15" if row.pvalue_adjusted < 1e-15 else text(row.pvalue_adjusted, ".1e"),
        row.verdict,
    )


def compare(
    old: Baseline,
    new: Baseline,
    *,
    alpha: float = 0.001,
    tolerance: float = 0.02,
    cost_factor: float = 2.0,
    reference: str | None = None,
) -> Comparison:
    """Which estimators changed, by two-sample tests with Holm's adjustment over all of them.

    With t = ``tolerance``, a test rejects, for one estimator and layer,

    * bias: ‖E g_new − E g_old‖ ≤ t ‖g*‖, by ‖ḡ_new − ḡ_old‖² (`shift_test`); it is worse unless ‖E g − g*‖ fell;
    * variance: |log(V_new/V_old)| ≤ log(1 + t), by V_new − (1 + t) V_old and the converse (`ratio_test`);
    * cosine: |c_new − c_old| ≤ t, by Welch's statistic (`change_test`).

    Errors are never below those of both runs' draws taken together (`variance_of_difference`).

    Where both sides know bias and variance exactly these decide, without a test. Cost, for all layers together: time a
    draw as a multiple of the reference's in the same run, beyond ``cost_factor``; layer and loss evaluations, beyond
    1 + t. No p-value.

    Args:
        alpha: probability, at most, that any test finds a change where there is none beyond the tolerance.
        tolerance: what is too small to matter.
        cost_factor: by which the time may grow; infinity compares no times.
        reference: estimator whose time is the unit; `st`, or else the fastest that both have.

    Raises:
        GradevalError: runs on different problems, or arguments out of range.
    """
    if not 0 < alpha < 1:
        raise GradevalError(f"alpha must lie between 0 and 1, found {alpha}.")
    if not SMALLEST_TOLERANCE <= tolerance < 1:
        raise GradevalError(f"tolerance must lie between {SMALLEST_TOLERANCE:g} and 1, found {tolerance}.")
    if not cost_factor > 1:
        raise GradevalError(f"the cost factor must be above 1, found {cost_factor}.")
    if old.fingerprint != new.fingerprint or dict(old.slices) != dict(new.slices):
        raise GradevalError(
            f"the runs are on different problems: '{old.problem}' ({old.fingerprint[:12]}) and '{new.problem}' "
            f"({new.fingerprint[:12]}). Compare runs on the same problem file, or make a new baseline."
        )
    common = [name for name in old.estimators if name in new.estimators]
    unit = _reference(reference, old, new, common) if cost_factor < math.inf else None
    rows: list[dict[str, Any]] = []
    for name in common:
        one, two = old.estimators[name], new.estimators[name]
        for layer, where in old.slices.items():
            if layer in one.layers and layer in two.layers:
                rows += _layer_rows(name, layer, where, old, new, tolerance)
        rows.append(_row(name, "all", EVALUATIONS, one.evaluations, two.evaluations, margin=tolerance))
        if unit and name != unit:
            before, after = (run.estimators[name].seconds / run.estimators[unit].seconds for run in (old, new))
            if before > 0 and after > 0:
                rows.append(_row(name, "all", TIME, before, after, margin=cost_factor - 1))
    rows += [_row(name, "all", "", verdict=MISSING) for name in old.estimators if name not in new.estimators]
    rows += [_row(name, "all", "", verdict=ADDED) for name in new.estimators if name not in old.estimators]
    table = _decide(pd.DataFrame(rows), alpha)
    tests = int(table["pvalue"].notna().sum())
    notes = [
        f"{tests} tests, adjusted together by Holm's method at a family-wise error rate of {alpha:g}; changes up to "
        f"{tolerance:g} are too small to matter."
    ]
    if unit:
        notes.append(f"Time a draw is measured in draws of {unit}; a factor of {cost_factor:g} is allowed.")
    if old.seed == new.seed:
        notes.append(
            f"Both runs have seed {old.seed}: what has not changed gave the same draws. Where code has changed they "
            "are dependent, and alpha is no longer a guarantee: another seed gives one."
        )
    notes += [f"{name} failed in the new run: {why}" for name, why in new.failures.items() if name in old.estimators]
    return Comparison(table, new.problem, alpha, tolerance, cost_factor, unit, notes)


def _reference(name: str | None, old: Baseline, new: Baseline, common: list[str]) -> str | None:
    timed = [n for n in common if old.estimators[n].seconds > 0 and new.estimators[n].seconds > 0]
    if name is not None:
        if name not in timed:
            raise unknown_name("reference estimator (both runs must have it, with its time)", name, timed)
        return name
    if REFERENCE in timed:
        return REFERENCE
    return min(timed, key=lambda n: old.estimators[n].seconds, default=None)


def _row(
    estimator: str,
    layer: str,
    measure: str,
    old: float = math.nan,
    new: float = math.nan,
    *,
    margin: float = math.nan,
    verdict: str = "",
) -> dict[str, Any]:
    """A row without a test: the ratio new/old against 1 + margin."""
    change = math.nan
    if not verdict:
        change = new / old - 1 if old else 0.0 if new == old else math.inf
        up, down = change > margin, change < 1 / (1 + margin) - 1
        verdict = WORSE if up else BETTER if down else SAME
    return _cells(estimator, layer, measure, old, new, change) | {"verdict": verdict}


def _cells(estimator: str, layer: str, measure: str, old: float, new: float, change: float) -> dict[str, Any]:
    names = ("estimator", "layer", "measure", "old", "new", "change", "pvalue", "test", "verdict")
    return dict(zip(names, (estimator, layer, measure, old, new, change, math.nan, None, ""), strict=True))


def _layer_rows(
    name: str, layer: str, where: slice, old: Baseline, new: Baseline, tolerance: float
) -> list[dict[str, Any]]:
    one, two = old.estimators[name], new.estimators[name]
    a, b = one.layers[layer], two.layers[layer]
    draws = (one.draws, two.draws)
    rows = []
    if a.exact is not None and b.exact is not None:
        before, after = (0.0 if x.exact[0] < EXACTLY_UNBIASED else x.exact[0] for x in (a, b) if x.exact)
        row = _cells(name, layer, BIAS, before, after, after - before)
        rows.append(
            row | {"verdict": SAME if abs(after - before) <= tolerance else WORSE if after > before else BETTER}
        )
        before, after = (0.0 if x.exact[1] < EXACTLY_UNBIASED else x.exact[1] for x in (a, b) if x.exact)
        rows.append(_row(name, layer, VARIANCE, before, after, margin=tolerance))
    else:
        size, norm = where.stop - where.start, new.norms[layer]
        first, second = (_expand(x.spectrum, size) / n for x, n in zip((a, b), draws, strict=True))
        # eigenvalues of a sum of covariances are majorised by the sums of their sorted eigenvalues: a wider tail
        variances = variance_of_difference((first, second), draws)
        distance = float(np.linalg.norm((two.bias - one.bias)[where])) / norm
        before, after = (
            math.sqrt(max(0.0, float(x.bias[where] @ x.bias[where]) / norm**2 - float(v.sum())))
            for x, v in ((one, first), (two, second))
        )
        row = _cells(name, layer, BIAS, before, after, math.sqrt(max(0.0, distance**2 - float(variances.sum()))))
        rows.append(row | {"test": shift_test(distance, variances, tolerance, min(draws) - 1)})
        change = b.variance / a.variance - 1 if a.variance else 0.0 if b.variance == 0 else math.inf
        row = _cells(name, layer, VARIANCE, a.variance, b.variance, change)
        errors = (a.variance * a.variance_error, b.variance * b.variance_error)
        rows.append(row | {"test": ratio_test((a.variance, b.variance), errors, draws, tolerance)})
    row = _cells(name, layer, COSINE, a.cosine, b.cosine, b.cosine - a.cosine)
    error = math.sqrt(variance_of_difference((a.cosine_error**2, b.cosine_error**2), draws))
    return [*rows, row | {"test": change_test(b.cosine - a.cosine, error, min(draws) - 1, tolerance)}]


def _expand(spectrum: Array, size: int) -> Array:
    return np.append(spectrum, np.full(size - len(spectrum), spectrum[-1]))


def _decide(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Adjust the p-values together and give every row its verdict."""
    from statsmodels.stats.multitest import multipletests

    tests = table.pop("test")
    decided, sampled = tests.notna(), pd.Series([test is not None and test.sampled for test in tests])
    for key in ("pvalue", "pvalue_adjusted", "detectable"):
        table[key] = math.nan
    if sampled.any():
        pvalues = [test.pvalue for test in tests[sampled]]
        table.loc[sampled, "pvalue"] = pvalues
        table.loc[sampled, "pvalue_adjusted"] = multipletests(pvalues, method="holm")[1]
        level = alpha / len(pvalues)
        table.loc[sampled, "detectable"] = [test.detectable(level) for test in tests[sampled]]
    for index in table.index[decided]:
        before, after = table.at[index, "old"], table.at[index, "new"]
        worse = after < before if table.at[index, "measure"] == COSINE else after >= before
        pvalue = table.at[index, "pvalue_adjusted"] if sampled[index] else tests[index].pvalue
        table.at[index, "verdict"] = (WORSE if worse else BETTER) if pvalue < alpha else SAME
    columns = ["estimator", "layer", "measure", "old", "new", "change", "pvalue", "pvalue_adjusted", "detectable"]
    return table[[*columns, "verdict"]]


def _layer_words(layer: str) -> str:
    return f"layer {layer}" if layer.isdigit() else layer


def _markdown(text: str) -> str:
    """Text that no name can turn into markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 forbids."""
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
