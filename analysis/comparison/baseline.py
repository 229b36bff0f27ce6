"""A baseline: the few figures of a run that a comparison needs, from a run's folder or from a small file.

A file takes about a kilobyte an estimator; a run and its baseline file compare alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from gradeval.analysis.measures import relative_variance
from gradeval.analysis.run.estimates import spectrum_of, total_variance
from gradeval.analysis.run.folder import read_run
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.record import Record
from gradeval.analysis.statistics import Array
from gradeval.errors import GradevalError
from gradeval.files import Finite, convert, convert_entries, one_line, read_json, write_whole

BASELINE_FORMAT = "gradeval-baseline/1"
MAX_BASELINE_BYTES = 16 * 2**20
DIGITS = 5  # significant digits of sampled figures in a file
SMALLEST_TOLERANCE = 1e-4  # what DIGITS can tell
LEADING = 6  # eigenvalues of a covariance that are kept one by one; of the others their mean


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
    """One estimator's figures.

    Attributes:
        draws: number of draws.
        seconds: of compute of one draw; NaN where unknown.
        evaluations: of layers and of the loss, of one draw.
        bias: mean of g − g*, [P].
        layers: figures by layer.
    """

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
    def of(cls, run: Record) -> Baseline:
        """Reduce a run to its figures.

        Args:
            run: an `Evaluation`, say.

        Returns:
            The baseline.

        Raises:
            GradevalError: its reference was sampled.
        """
        if run.reference is not None:
            raise GradevalError("runs are compared by their errors from the exact gradient: this one was sampled.")
        problem, failures = run.manifest["problem"], run.manifest.get("failures", {})
        estimators = {name: _figures_of(run, name) for name in run.moments}
        seed = run.manifest["seed"]
        return cls(problem["fingerprint"], problem["name"], seed, run.norms, run.slices, estimators, failures)

    @classmethod
    def read(cls, path: str | Path) -> Baseline:
        """Read a run's folder, or a baseline file.

        Args:
            path: of either.

        Returns:
            The baseline.

        Raises:
            GradevalError: neither of them, or damaged; the message names the place.
        """
        path = Path(path)
        if path.is_dir():
            return cls.of(read_run(path))
        if not path.exists():
            raise GradevalError(f"{path} is neither the folder of a run nor a baseline file: there is no such file.")
        document = read_json(path, MAX_BASELINE_BYTES)
        try:
            return _from_document(document)
        except GradevalError as error:
            raise GradevalError(f"{path}: {one_line(str(error))}") from None

    def save(self, path: str | Path) -> Path:
        """Write the baseline file, whole or not at all; an older baseline there is replaced.

        Args:
            path: of the file.

        Returns:
            The path.

        Raises:
            GradevalError: something else stands there, or it cannot be written.
        """
        path = Path(path)
        if path.is_dir():
            raise GradevalError(f"{path} is a folder: choose the name of a file.")
        if path.exists():
            try:
                self.read(path)
            except GradevalError:
                raise GradevalError(f"{path} exists and is no baseline file: choose another name.") from None
        text = json.dumps(_document_of(self), separators=(",", ":"))
        text = text.replace('},"', '},\n"').replace('"bias":', '\n"bias":')  # a line for each part, for reviews
        if len(text) >= MAX_BASELINE_BYTES:
            raise GradevalError(
                f"the baseline of so many parameters takes {len(text) >> 20} MiB, more than is read again "
                f"({MAX_BASELINE_BYTES >> 20} MiB): compare the runs' folders."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, f"{text}\n".encode())
        except OSError as error:
            raise GradevalError(f"cannot write {path}: {error.strerror}.") from None
        return path


def _figures_of(run: Record, name: str) -> EstimatorFigures:
    exact = run.exact_moments[run.exact_moments["estimator"] == name].set_index("layer")
    moments, facts = run.moments[name], run.manifest["estimators"][name]
    layers = {}
    for layer, norm in run.norms.items():
        if not norm:
            continue
        variance, error = total_variance(moments, run.exact, layer)
        cosine, cosine_variance = moments.cosine(layer)
        known = exact.loc[layer, ["exact_relative_bias", "exact_relative_variance"]] if layer in exact.index else None
        layers[layer] = LayerFigures(
            relative_variance(variance, norm),
            error / variance if variance else 0.0,
            float(cosine),
            math.sqrt(cosine_variance / moments.draws),
            _spectrum(moments, layer, norm, relative_variance(variance, norm)),
            None if known is None else (float(known.iloc[0]), float(known.iloc[1])),
        )
    seconds = run.seconds_per_draw.get(name, math.nan)
    evaluations = facts["layer_evaluations"] + facts["loss_evaluations"]
    return EstimatorFigures(moments.draws, seconds, evaluations, moments.mean_error, layers)


def _spectrum(moments: Moments, layer: str, norm: float, trace: float) -> Array:
    """The leading eigenvalues, scaled to the trace, which is known better than each of them."""
    values = np.maximum(spectrum_of(moments, layer, norm)[::-1], 0.0)
    values *= trace / values.sum() if values.sum() > 0 else 1.0
    if len(values) <= LEADING + 1:
        return values
    return np.append(values[:LEADING], values[LEADING:].mean())


# --- writing a file -----------------------------------------------------------------------------------------------


def _document_of(baseline: Baseline) -> dict[str, Any]:
    def layer(figures: LayerFigures) -> dict[str, Any]:
        return {
            "variance": _rounded([figures.variance, figures.variance_error]),
            "cosine": _rounded([figures.cosine, figures.cosine_error]),
            "spectrum": _rounded(figures.spectrum),
            "exact": None if figures.exact is None else list(figures.exact),
        }

    return {
        "format": BASELINE_FORMAT,
        "fingerprint": baseline.fingerprint,
        "problem": baseline.problem,
        "seed": baseline.seed,
        "norms": dict(baseline.norms),
        "slices": {name: [where.start, where.stop] for name, where in baseline.slices.items()},
        "estimators": {
            name: {
                "draws": one.draws,
                "seconds": None if math.isnan(one.seconds) else _rounded([one.seconds])[0],
                "evaluations": one.evaluations,
                "bias": _rounded(one.bias),
                "layers": {name: layer(figures) for name, figures in one.layers.items()},
            }
            for name, one in baseline.estimators.items()
        },
    }


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


# --- reading a file, perhaps a stranger's -------------------------------------------------------------------------

_Size = Annotated[float, msgspec.Meta(ge=0.0, lt=1e300)]
_Cosine = Annotated[float, msgspec.Meta(ge=-1.0, le=1.0)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _File(msgspec.Struct):
    """The whole file; what is a ``dict`` here is read entry by entry, so that messages name the entry."""

    fingerprint: str
    problem: str
    seed: int
    norms: dict[str, Any]
    slices: dict[str, Any]
    estimators: dict[str, Any]


class _EstimatorEntry(msgspec.Struct):
    draws: Annotated[int, msgspec.Meta(ge=2, le=2**53)]
    evaluations: _Size
    bias: list[Finite]
    layers: dict[str, Any]
    seconds: _Size | None = None


class _LayerEntry(msgspec.Struct):
    variance: tuple[_Size, _Size]
    cosine: tuple[_Cosine, _Size]
    spectrum: list[_Size]
    exact: tuple[_Size, _Size] | None = None


def _from_document(document: dict[str, Any]) -> Baseline:
    found = document.get("format")
    if found != BASELINE_FORMAT:
        raise GradevalError(f"format: this version reads '{BASELINE_FORMAT}', found {found!r:.80}.")
    file = convert(document, _File, "")
    norms: dict[str, float] = convert_entries(file.norms, _Size, "norms")
    ends: dict[str, tuple[int, int]] = convert_entries(file.slices, tuple[_Count, _Count], "slices")
    for name, (start, stop) in ends.items():
        if start >= stop:
            raise GradevalError(
                f"slices.{name}: must be two whole numbers, the first below the second; found {[start, stop]}."
            )
    slices = {name: slice(start, stop) for name, (start, stop) in ends.items()}
    if norms.keys() != slices.keys() or not norms:
        raise GradevalError("slices: must name the same layers as norms, at least one.")
    estimators = {
        name: _read_estimator(entry, f"estimators.{name}", norms, slices)
        for name, entry in convert_entries(file.estimators, _EstimatorEntry, "estimators").items()
    }
    if not estimators:
        raise GradevalError("estimators: there must be at least one.")
    return Baseline(file.fingerprint, file.problem, file.seed, norms, slices, estimators)


def _read_estimator(
    entry: _EstimatorEntry, place: str, norms: Mapping[str, float], slices: Mapping[str, slice]
) -> EstimatorFigures:
    for name in entry.layers:
        if not norms.get(name):
            raise GradevalError(f"{place}.layers: '{name}' is no layer with a gradient in norms.")
    for name, norm in norms.items():
        if norm and name not in entry.layers:
            raise GradevalError(f"{place}.layers.{name}: missing.")
    size = max(where.stop for where in slices.values())
    _check_length(entry.bias, f"{place}.bias", size)
    layers = {
        name: _read_layer(figures, f"{place}.layers.{name}", slices[name])
        for name, figures in convert_entries(entry.layers, _LayerEntry, f"{place}.layers").items()
    }
    seconds = math.nan if entry.seconds is None else entry.seconds
    return EstimatorFigures(entry.draws, seconds, entry.evaluations, np.array(entry.bias), layers)


def _read_layer(entry: _LayerEntry, place: str, where: slice) -> LayerFigures:
    _check_length(entry.spectrum, f"{place}.spectrum", min(where.stop - where.start, LEADING + 1))
    return LayerFigures(*entry.variance, *entry.cosine, np.array(entry.spectrum), entry.exact)


def _check_length(values: list[float], place: str, count: int) -> None:
    if len(values) != count:
        raise GradevalError(f"{place}: must be a list of {count} numbers, found {len(values)}.")
