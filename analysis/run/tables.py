"""A saved run: streamed moments, curves and a manifest; the tidy tables that everything shown is made from.

Tables hold no timings, so the same seed gives the same bytes; timings stand in a table of their own.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.run.moments import Layout, Moments
from gradeval.analysis.statistics import (
    FAMILY_ALPHA,
    LEVEL,
    Array,
    BiasTest,
    Interval,
    bias_interval,
    bias_test,
    mean_interval,
    positive_mean_interval,
    skewness,
)
from gradeval.errors import GradevalError
from gradeval.files import CannotWrite, read_json, reason

FORMAT = "gradeval-run/2"
MIN_BLOCKS = 20
_Z = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval
TABLES = (
    "summary",
    "curves",
    "exact_moments",
    "breakeven",
    "variance_reduction",
    "fits",
    "timings",
    "points",
    "prediction",
)
EXACT_COLUMNS = ["estimator", "layer", "exact_relative_bias", "exact_relative_variance", "exact_scale"]
ROUNDING_VARIANCE = 1e-26  # a variance below this share of the mean squared gradient is rounding
EXACTLY_UNBIASED = 1e-9  # an exact relative bias below this is rounding


@dataclass(frozen=True)
class Evaluation:
    """What `gradeval.evaluate` found.

    Attributes:
        manifest: arguments, seeds, versions, the problem's facts, timings.
        exact: g* flattened, [P].
        slices: where each layer's parameters lie in it.
        moments: by estimator.
        curves: one row per estimator × layer × samples M.
        exact_moments: bias, variance and scale without sampling, of the estimators that were also run on all states.
        points, prediction: for two-dimensional inputs, the data and the mean prediction on a grid.
    """

    manifest: dict[str, Any]
    exact: Array
    slices: dict[str, slice]
    moments: Mapping[str, Moments]
    curves: pd.DataFrame
    exact_moments: pd.DataFrame
    points: pd.DataFrame | None = None
    prediction: pd.DataFrame | None = None

    @property
    def layout(self) -> Layout:
        """Where what lies in the moments."""
        return Layout(len(self.exact), self.slices)

    @cached_property
    def norms(self) -> dict[str, float]:
        """‖g*‖ of each layer."""
        return {layer: float(np.linalg.norm(self.exact[where])) for layer, where in self.slices.items()}

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per estimator × layer; the columns are explained in the report."""
        rows = [self._row(name, moments, layer) for name, moments in self.moments.items() for layer in self.slices]
        known = self.exact_moments.astype(dict.fromkeys(EXACT_COLUMNS[2:], float))  # an empty table has no types
        table = pd.DataFrame(rows).merge(known, on=["estimator", "layer"], how="left")
        table.insert(table.columns.get_loc("bias_pvalue") + 1, "bias_pvalue_adjusted", _holm(table["bias_pvalue"]))
        table["verdict"] = [_verdict(row) for row in table.itertuples()]
        return table

    def _row(self, name: str, moments: Moments, layer: str) -> dict[str, Any]:
        n, norm = moments.draws, self.norms[layer]
        facts = self.manifest["estimators"][name]
        test = self.unbiasedness(name, layer, comparisons=len(self.moments) * len(self.slices))
        intervals = self.intervals(name, layer)
        row: dict[str, Any] = {"estimator": name, "layer": layer, "draws": n}
        row |= _columns("relative_bias", intervals.pop("relative_bias"))
        row |= {"bias_pvalue": test.pvalue if norm else math.nan}
        row |= {"detectable_bias": test.detectable / norm if norm else math.nan}
        for key, interval in intervals.items():
            row |= _columns(key, interval)
        row |= {"seconds_per_draw": self.manifest["timings"].get("seconds_per_draw", {}).get(name, math.nan)}
        row |= {key: facts[key] for key in ("layer_evaluations", "loss_evaluations", "unbiased_claim")}
        return row | {"deterministic": moments.deterministic}

    def intervals(self, name: str, layer: str) -> dict[str, Interval]:
        """Every estimate of `summary` that has an interval, by its column, for one estimator and layer."""
        moments, norm = self.moments[name], self.norms[layer]
        n, bias, covariance = moments.draws, moments.bias(layer), moments.spread(layer)
        variance, variance_error = self.variance(name, layer)
        (square, square_variance), (cosine, cosine_variance) = moments.square(layer), moments.cosine(layer)
        square_error, cosine_error = math.sqrt(square_variance / n), math.sqrt(cosine_variance / n)
        direction = self.exact[self.slices[layer]] / norm if norm else np.zeros_like(bias)
        scale_error = math.sqrt(max(0.0, direction @ covariance @ direction) / n)
        skew = [
            skewness(float(third), error * scale, n)
            for third, error, scale in zip(
                moments.third(layer),
                (square_error, cosine_error, variance_error, scale_error),
                (1.0, 1.0, 1.0, norm),
                strict=True,
            )
        ]
        undefined = Interval(math.nan, math.nan, math.nan)
        rmse = positive_mean_interval(square, square_error, n, skew[0]).map(math.sqrt)
        cosines = mean_interval(cosine, cosine_error, n, skew[1]).map(_between_bounds)
        return {
            "relative_bias": bias_interval(bias, covariance, n) / norm,
            "relative_variance": positive_mean_interval(variance, variance_error, n, skew[2]) / norm**2,
            "cosine": cosines if norm else undefined,
            "relative_rmse": rmse / norm,
            "descent_probability": Interval(*_proportion(moments.descent(layer), n, moments.deterministic)),
            "scale": mean_interval(float(direction @ bias) + norm, scale_error, n, skew[3]) / norm,
        }

    def unbiasedness(self, name: str, layer: str, comparisons: int) -> BiasTest:
        """The test of E[g] = g* of one estimator and layer, one of ``comparisons``."""
        moments, norm = self.moments[name], self.norms[layer]
        square, variance = moments.square(layer)
        size = math.sqrt(square + variance / square) if square > 0 else 0.0
        bias, covariance = moments.bias(layer), moments.spread(layer)
        return bias_test(bias, covariance, moments.draws, size, norm, comparisons, moments.deterministic)

    def variance(self, name: str, layer: str) -> tuple[float, float]:
        """tr Σ̂ of one draw of an estimator, and its standard error.

        The variance of tr Σ̂ is that of ‖g − E g‖² over n, and 2 tr Σ²/n², which is what is left where all draws are
        equally far from their mean.
        """
        moments, where, square = self.moments[name], self.slices[layer], self.layout.square(layer)
        covariance = moments.spread(layer)
        variance = float(np.trace(covariance))
        if variance < ROUNDING_VARIANCE * (self.norms[layer] ** 2 + moments.square(layer)[0]):
            variance = 0.0
        # influence of one draw on tr Σ̂: ‖g − E g‖² = ‖g − g*‖² − 2⟨b, g − g*⟩ + const
        contrast = np.zeros(len(moments.mean))
        contrast[square] = 1.0
        contrast[where] = -2 * moments.bias(layer)
        first = max(0.0, float(contrast @ moments.covariance @ contrast)) / moments.draws
        return variance, math.hypot(math.sqrt(first), math.sqrt(2) * float(np.linalg.norm(covariance)) / moments.draws)

    @cached_property
    def best(self) -> pd.DataFrame:
        """`summary` with exact bias and variance in place of the estimates, and no interval, where they are known.

        ``unbiased``: claimed, or exactly so.
        """
        table = self.summary.copy()
        for key in ("relative_bias", "relative_variance"):
            exact = table[f"exact_{key}"]
            if key == "relative_bias":
                exact = exact.where(~(exact < EXACTLY_UNBIASED), 0.0)
            for end in ("", "_low", "_high"):
                table[f"{key}{end}"] = exact.where(exact.notna(), table[f"{key}{end}"])
        exact_bias = table["exact_relative_bias"]
        table["unbiased"] = table["unbiased_claim"].astype(bool).where(exact_bias.isna(), exact_bias < EXACTLY_UNBIASED)
        return table

    @cached_property
    def breakeven(self) -> pd.DataFrame:
        """From how many draws (seconds of compute) on the mean of an unbiased estimator beats that of a biased one.

        Draws: M = (V₁ − V₂)/b₂²; seconds: (V₁c₁ − V₂c₂)/b₂² with c seconds a draw. Exact V and b are used where known.
        The interval combines the 95 % intervals of V₁, V₂ and b₂ at their worst and so covers at least as often.
        """
        rows = []
        for layer, group in self.best.groupby("layer", sort=False):
            unbiased = group[group["unbiased"]]
            for one in unbiased.itertuples():
                for two in group[~group["unbiased"]].itertuples():
                    row = {"unbiased": one.estimator, "biased": two.estimator, "layer": layer}
                    for key, c1, c2 in (("draws", 1.0, 1.0), ("seconds", one.seconds_per_draw, two.seconds_per_draw)):
                        row |= {
                            key: _ratio(c1 * one.relative_variance - c2 * two.relative_variance, two.relative_bias),
                            f"{key}_low": _ratio(
                                c1 * one.relative_variance_low - c2 * two.relative_variance_high, two.relative_bias_high
                            ),
                            f"{key}_high": _ratio(
                                c1 * one.relative_variance_high - c2 * two.relative_variance_low, two.relative_bias_low
                            ),
                        }
                    rows.append(row)
        columns = ["unbiased", "biased", "layer"]
        columns += [f"{key}{end}" for key in ("draws", "seconds") for end in ("", "_low", "_high")]
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def variance_reduction(self) -> pd.DataFrame:
        """How much of the variance between REINFORCE and RAM each unbiased estimator removes, per layer.

        share = (V_R − V)/(V_R − V_RAM): 0 is REINFORCE's variance, 1 that of integrating out one unit at a time, which
        RAM was proposed to measure (Tokui & Sato 2017, arXiv:1611.01239). The gains compare work at equal accuracy to
        REINFORCE's: V_R c_R/(V c), with c layer and loss evaluations, or seconds, a draw. The share's interval
        combines the 95 % intervals of the three variances at their worst. Empty without both yardsticks in the run.
        """
        columns = ["estimator", "layer", "share", "share_low", "share_high", "evaluations_gain", "seconds_gain"]
        rows = []
        for layer, group in self.best.groupby("layer", sort=False):
            table = group.set_index("estimator")
            if not {"reinforce", "ram"} <= set(table.index):
                continue
            plain, ram = table.loc["reinforce"], table.loc["ram"]

            def share(v: float, end_v: float, end_ram: float) -> float:
                return (end_v - v) / (end_v - end_ram) if end_v > end_ram else math.nan

            for name, row in table[table["unbiased"]].iterrows():
                v, low, high = (row[f"relative_variance{end}"] for end in ("", "_low", "_high"))
                ends = ([row[f"relative_variance_{end}"] for end in ("low", "high")] for row in (plain, ram))
                corners = [share(*corner) for corner in itertools.product((low, high), *ends)]
                least, most = min(corners), max(corners)
                if np.isnan(corners).any():  # the yardsticks may be one: the share may be anything
                    least, most = -math.inf, math.inf
                if name in ("reinforce", "ram"):  # the same draws on both sides
                    least = most = float(name == "ram")
                gains = [
                    plain["relative_variance"] * plain_cost / (v * cost) if v > 0 else math.inf
                    for plain_cost, cost in (
                        (_evaluations(plain), _evaluations(row)),
                        (plain["seconds_per_draw"], row["seconds_per_draw"]),
                    )
                ]
                middle = share(v, plain["relative_variance"], ram["relative_variance"])
                rows.append(dict(zip(columns, (name, layer, middle, least, most, *gains), strict=True)))
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def fits(self) -> pd.DataFrame:
        """RMSE²(M) = bias² + variance/M by weighted least squares on 1/M, beside the direct figures.

        The weights are M: the mean of n/M squared errors has variance 2 tr Σ²/Mn where variance prevails. Estimated
        ones would favour the points that happen to be low, since with rare large draws these have low errors too.
        """
        from statsmodels.regression.linear_model import WLS

        rows = []
        direct = self.summary.set_index(["estimator", "layer"])
        for (name, layer), curve in self.curves.groupby(["estimator", "layer"], sort=False):
            if len(curve) < 3 or not (curve["relative_rmse_se"] > 0).all():
                continue
            design = np.column_stack([np.ones(len(curve)), 1 / curve["samples"]])
            error = np.asarray(2 * curve["relative_rmse"] * curve["relative_rmse_se"])
            weights = np.asarray(curve["samples"], dtype=float)
            model = WLS(np.asarray(curve["relative_rmse"] ** 2), design, weights=weights)
            square, variance = np.asarray(model.fit().params)
            # all points of a curve come from the same draws: an interval that holds for any correlation among them
            half = _Z * np.abs(np.asarray(model.pinv_wexog) * np.sqrt(weights)) @ error
            row = {"estimator": name, "layer": layer}
            row |= {key: direct.at[(name, layer), key] for key in ("relative_bias", "relative_variance")}
            row |= _columns(
                "wls_relative_bias",
                Interval(square, square - half[0], square + half[0]).map(lambda v: math.sqrt(max(v, 0.0))),
            )
            row |= _columns("wls_relative_variance", Interval(variance, variance - half[1], variance + half[1]))
            rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def exact_curves(self) -> pd.DataFrame:
        """√(bias² + variance/M) at the curves' M, relative, of the estimators whose exact moments are known."""
        table = self.curves[["estimator", "layer", "samples"]].merge(self.exact_moments, on=["estimator", "layer"])
        square = table["exact_relative_bias"] ** 2 + table["exact_relative_variance"] / table["samples"]
        return table[["estimator", "layer", "samples"]].assign(relative_rmse=np.sqrt(square))

    @property
    def timings(self) -> pd.DataFrame:
        """Seconds of compute per draw."""
        seconds = self.manifest["timings"].get("seconds_per_draw", {})
        return pd.DataFrame({"estimator": list(seconds), "seconds_per_draw": list(seconds.values())})

    def save(self, folder: str | Path) -> Path:
        """Write manifest, moments and tables (csv and parquet) into ``folder``, whole or not at all.

        Raises:
            GradevalError: the folder exists and is not empty, or cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise GradevalError(f"{folder} exists and is not empty: choose another folder or remove it.")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
                content = Path(temporary) / "run"
                content.mkdir()
                self._write(content)
                if folder.exists():
                    folder.rmdir()
                content.rename(folder)
        except OSError as error:
            raise GradevalError(f"cannot write {folder}: {error.strerror}.") from None
        return folder

    def _write(self, folder: Path) -> None:
        (folder / "manifest.json").write_text(json.dumps(self.manifest, indent=1))
        arrays: dict[str, Array] = {"exact": self.exact}
        for i, m in enumerate(self.moments.values()):
            arrays |= {f"mean_{i}": m.mean, f"covariance_{i}": m.covariance, f"descents_{i}": m.descents}
            arrays |= {f"thirds_{i}": m.thirds}
        np.savez_compressed(folder / "moments.npz", allow_pickle=False, **arrays)
        for name in TABLES:
            table = getattr(self, name)
            if table is not None:
                table = table[[c for c in table if name == "timings" or not str(c).startswith("seconds")]]
                table.to_csv(folder / f"{name}.csv", index=False)
                table.to_parquet(folder / f"{name}.parquet", index=False)

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read a saved run. Raises GradevalError, in one line, when it is missing, of another format or damaged."""
        folder = Path(folder)
        if not (folder / "manifest.json").exists():
            raise GradevalError(f"{folder} is not a run: it has no readable manifest.json.")
        manifest = read_json(folder / "manifest.json", MAX_MANIFEST_BYTES)
        found = manifest.get("format")
        if found != FORMAT:
            raise GradevalError(f"{folder}: this version reads runs of format '{FORMAT}', found {found!r:.80}.")
        tables = {name: _read_table(folder / f"{name}.parquet") for name in _STORED}
        for name in ("curves", "exact_moments"):
            if tables[name] is None:
                raise GradevalError(f"{folder}: {name}.parquet is missing.")
        arrays = _read_arrays(folder / "moments.npz")
        try:
            _check_manifest(manifest, _MANIFEST, "manifest.json")
            slices = {layer: slice(*ends) for layer, ends in manifest["problem"]["slices"].items()}
            layout = Layout(len(arrays["exact"]), slices)
            moments = {
                name: Moments(
                    layout,
                    facts["draws"],
                    arrays[f"mean_{i}"],
                    arrays[f"covariance_{i}"],
                    arrays[f"descents_{i}"],
                    arrays[f"thirds_{i}"],
                    facts["deterministic"],
                )
                for i, (name, facts) in enumerate(manifest["estimators"].items())
            }
            run = cls(manifest, arrays["exact"], slices, moments, **tables)
            _check_run(run)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GradevalError(f"{folder}: a damaged run ({reason(error)}).") from None
        return run

    def rewrite(self, folder: str | Path) -> None:
        """Make the tables of a saved run anew from its moments and curves.

        Raises:
            CannotWrite: a full disk, say.
        """
        folder = Path(folder)
        try:
            with tempfile.TemporaryDirectory(prefix=".tables-", dir=folder) as temporary:
                self._write(Path(temporary))
                for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == "manifest.json"):
                    path.replace(folder / path.name)
        except OSError as error:
            raise CannotWrite(folder, error) from None


def _evaluations(row: Any) -> float:
    return float(row["layer_evaluations"] + row["loss_evaluations"])


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _ratio(difference: float, bias: float) -> float:
    """difference / bias², never below 0 (better from the start); infinite when there is no bias to overcome."""
    if difference <= 0:
        return 0.0
    return math.inf if bias == 0 else difference / bias**2


def _proportion(count: int, n: int, deterministic: bool) -> tuple[float, float, float]:
    from statsmodels.stats.proportion import proportion_confint

    if deterministic:
        return (float(count > 0),) * 3
    low, high = proportion_confint(count, n, alpha=1 - LEVEL, method="wilson")
    return count / n, float(low), float(high)


def _holm(pvalues: pd.Series) -> pd.Series:
    from statsmodels.stats.multitest import multipletests

    adjusted = pd.Series(math.nan, index=pvalues.index)
    known = pvalues.notna()
    if known.any():
        adjusted[known] = multipletests(pvalues[known], method="holm")[1]
    return adjusted


def _verdict(row: Any) -> str:
    """What the row's numbers say, in words."""
    if math.isnan(row.cosine):
        return "undefined: the exact gradient is zero"
    if not math.isnan(row.exact_relative_bias):
        if row.exact_relative_bias < EXACTLY_UNBIASED:
            return "claim of no bias holds exactly" if row.unbiased_claim else "exactly unbiased"
        return "claim of no bias refuted exactly" if row.unbiased_claim else "biased"
    if math.isnan(row.bias_pvalue):
        return "untested: no draw differs from another"
    if row.bias_pvalue_adjusted < FAMILY_ALPHA:
        return "claim of no bias refuted" if row.unbiased_claim else "biased"
    return "claim of no bias holds" if row.unbiased_claim else "no bias seen"


def curve_rows(
    name: str,
    layers: list[str],
    samples: int,
    blocks: int,
    mean: Array,
    variance: Array,
    quantiles: Array,
    norms: Array,
) -> list[dict[str, Any]]:
    """Rows of `curves` for M = ``samples``, from moments over ``blocks`` of M-draw means.

    Args:
        mean, variance: of [squared errors, cosines] over the blocks, [2K]; variance 0 for a deterministic estimator.
        quantiles: 15 % and 85 % quantiles of the cosine, [2, K].
        norms: ‖g*‖ by layer, [K].
    """
    rows = []
    k = len(layers)
    for i, layer in enumerate(layers):
        mse, cosine = mean[i], mean[k + i]
        mse_se, cosine_se = np.sqrt(variance[i] / blocks), np.sqrt(variance[k + i] / blocks)
        row: dict[str, Any] = {"estimator": name, "layer": layer, "samples": samples, "blocks": blocks}
        cosines = mean_interval(cosine, cosine_se, blocks).map(_between_bounds)
        row |= _columns("cosine", cosines) | {"cosine_se": cosine_se}
        row |= {"cosine_q15": quantiles[0, i], "cosine_q85": quantiles[1, i]}
        rmse = positive_mean_interval(mse, mse_se, blocks).map(math.sqrt) / norms[i]
        row |= _columns("relative_rmse", rmse)
        row |= {"relative_rmse_se": mse_se / (2 * math.sqrt(mse) * norms[i]) if mse > 0 and norms[i] > 0 else 0.0}
        rows.append(row)
    return rows


def _between_bounds(cosine: float) -> float:
    return min(max(cosine, -1.0), 1.0)


CURVE_COLUMNS = list(
    curve_rows("", [""], 1, 2, np.zeros(2), np.zeros(2), np.zeros((2, 1)), np.ones(1))[0],
)


# --- reading runs that may be damaged, or a stranger's -------------------------------------------------------------

MAX_MANIFEST_BYTES = 2**26
MAX_ARRAY_BYTES = 2**34  # of all moments together, unpacked
MAX_ROWS = 2**22
LARGEST = 1e100  # of the numbers, so that their products are finite
_STORED = {
    "curves": CURVE_COLUMNS,
    "exact_moments": EXACT_COLUMNS,
    "points": ["x", "y", "target"],
    "prediction": ["x", "y", "prediction"],
}
_NUMBER = (int, float)
_MANIFEST: dict[str, Any] = {
    "created": str,
    "arguments": dict,
    "seed": int,
    "draws": int,
    "versions": {...: str},
    "device": str,
    "dtype": str,
    "failures": {...: str},
    "timings": {"seconds_per_draw": {...: _NUMBER}},
    "problem": {
        "name": str,
        "description": str,
        "fingerprint": str,
        "points": int,
        "widths": [int],
        "noise": str,
        "states": [_NUMBER],
        "loss": str,
        "parameters": int,
        "exact_value": _NUMBER,
        "gradient_norms": {...: _NUMBER},
        "slices": {...: [int]},
    },
    "estimators": {
        ...: {
            "source": str,
            "unbiased_claim": bool,
            "deterministic": bool,
            "vectorised": bool,
            "draws": int,
            "layer_evaluations": _NUMBER,
            "loss_evaluations": _NUMBER,
            "notes": [str],
        }
    },
}
"""What the tables and the report take for granted; ... stands for every key."""


def _check_manifest(value: Any, wanted: Any, place: str) -> None:
    """Raise ValueError unless ``value`` has the form of ``wanted``."""
    kind = type(wanted) if isinstance(wanted, dict | list) else wanted
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{place} is {str(value)[:40]!r}")
    if isinstance(value, str):
        value.encode()  # half a surrogate pair cannot be written
    if isinstance(wanted, list):
        for entry in value:
            _check_manifest(entry, wanted[0], place)
    elif isinstance(wanted, dict):
        for key in value if ... in wanted else wanted:
            key.encode()
            _check_manifest(value[key], wanted.get(key, wanted.get(...)), f"{place}: {key}")


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as entries:
            if sum(entry.file_size for entry in entries.infolist()) > MAX_ARRAY_BYTES:
                raise ValueError(f"larger than {MAX_ARRAY_BYTES >> 30} GiB")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zip, zlib and numpy have many ways to say it
        raise GradevalError(f"{path}: damaged ({reason(error)}).") from None


def _read_table(path: Path) -> pd.DataFrame | None:
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MAX_ROWS:
                raise ValueError(f"more than {MAX_ROWS} rows")
            return file.read(columns=_STORED[path.stem]).to_pandas(ignore_metadata=True)
    except Exception as error:  # so have Arrow and its codecs
        raise GradevalError(f"{path}: damaged ({reason(error)}).") from None


def _check_run(run: Evaluation) -> None:
    """Raise ValueError unless shapes, names and types fit together."""
    layout = run.layout
    parameters, layers, size = layout.parameters, layout.layers, layout.size
    shapes: list[tuple[str, Array, tuple[int, ...]]] = [("the exact gradient", run.exact, (parameters,))]
    for name, m in run.moments.items():
        if m.draws < 2:
            raise ValueError(f"'{name}' has {m.draws} draws")
        wanted = {"mean": (size,), "covariance": (size, size), "descents": (len(layers),), "thirds": (4 * len(layers),)}
        shapes += [(f"{key} of '{name}'", getattr(m, key), shape) for key, shape in wanted.items()]
    for what, array, shape in shapes:
        if array.shape != shape or array.dtype not in (np.float64, np.float32, np.int64):
            raise ValueError(f"{what} is {array.dtype}{list(array.shape)}, not numbers {list(shape)}")
    some = [*range(parameters + len(layers)), size - 1]  # the cosines of a layer without gradient are NaN
    for name, m in run.moments.items():
        variance = np.diag(m.covariance)
        numbers = np.concatenate([run.exact, m.mean[some], m.covariance[np.ix_(some, some)].ravel()])
        cosines = np.concatenate([m.mean, variance, m.thirds])
        squares = np.concatenate([variance, m.mean[layout.squares]])
        if not (np.abs(numbers) < LARGEST).all() or (np.abs(cosines) >= LARGEST).any() or (squares < 0).any():
            raise ValueError(f"the moments of '{name}' are not finite, or a mean square is negative")
        if not ((m.descents >= 0) & (m.descents <= m.draws)).all():
            raise ValueError(f"'{name}' has a number of descents that cannot be")
    for layer, where in run.slices.items():
        if not 0 <= where.start < where.stop <= parameters:
            raise ValueError(f"layer {layer} is {where}")
    if not run.moments or "all" not in layers:
        raise ValueError("no estimators, or no layer 'all'")
    for name, columns in _STORED.items():
        table = getattr(run, name)
        if table is None:
            continue
        for column in columns:
            texts = column in ("estimator", "layer")
            known = {"estimator": set(run.moments), "layer": set(layers)}.get(column)
            if texts and not set(table[column]) <= (known or set()):
                raise ValueError(f"{name}.parquet names another {column}")
            if not texts and len(table) and not pd.api.types.is_numeric_dtype(table[column]):
                raise ValueError(f"column {column} of {name}.parquet is no number")
            if not texts and len(table) and (table[column].abs() >= LARGEST).any():
                raise ValueError(f"column {column} of {name}.parquet has numbers beyond {LARGEST:g}")
