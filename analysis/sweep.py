"""The table of a sweep: regressions of accuracy on width and depth, and figures. It evaluates nothing."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from gradeval.analysis.run.figures import log_axis, paper_style, printable, save_figure, styles, write_atomically
from gradeval.analysis.statistics import Interval, mean_interval
from gradeval.errors import GradevalError

FORMAT = "gradeval-sweep/1"
MEASURES = {
    "relative_rmse": "relative RMSE of one draw",
    "relative_bias": "relative bias",
    "relative_variance": "relative variance",
}
COVARIATES = {"depth": "depth", "log2_width": "log₂ width"}
_OPTIONS_THAT_ARE_NETS = ("name", "units", "seed", "points", "depth", "width")


@dataclass(frozen=True)
class Sweep:
    """All rows of a sweep.

    Attributes:
        table: the problem's options, net, depth, width (geometric mean), total_units, then the columns of `summary`:
            one row per net × estimator × layer. Bias and variance are exact where all states were enumerated.
    """

    table: pd.DataFrame

    @property
    def options(self) -> list[str]:
        """The columns that are options of the problem."""
        return list(self.table.columns[: self.table.columns.get_loc("net")])

    @cached_property
    def regressions(self) -> pd.DataFrame:
        """`regress` of every measure, for all layers together."""
        found = [regress(self.table, measure, self.options) for measure in MEASURES]
        return pd.concat(found, ignore_index=True)

    def save(self, folder: str | Path) -> None:
        """Write the tables (csv and parquet), each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("sweep", self.table), ("regressions", self.regressions)):
            kept = table[[c for c in table if not str(c).startswith("seconds")]]
            buffer = io.BytesIO()
            kept.to_parquet(buffer, index=False)
            write_atomically(folder / f"{name}.csv", kept.to_csv(index=False).encode())
            write_atomically(folder / f"{name}.parquet", buffer.getvalue())

    @classmethod
    def load(cls, folder: str | Path) -> Sweep:
        """Read a saved sweep. Raises GradevalError when it is missing or damaged."""
        path = Path(folder) / "sweep.parquet"
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise GradevalError(f"{folder} is not a sweep: {path.name} cannot be read ({error}).") from None
        if "net" not in table:
            raise GradevalError(f"{path} is not the table of a sweep: it has no column 'net'.")
        return cls(table)


def build(sweep: Sweep, folder: str | Path) -> None:
    """Write the figures of a sweep into `figures/`."""
    figures = Path(folder) / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for covariate in ("depth", "width"):
        save_figure(trend_figure(sweep.table, covariate), figures, covariate)


def regress(table: pd.DataFrame, measure: str, options: Sequence[str], layer: str = "all") -> pd.DataFrame:
    """log₁₀ of a measure on depth and log₂ width, with an intercept and slopes for every estimator.

    The other options that vary (stage, noise) enter as categories, for every estimator. Least squares; since a net's
    estimators share its gradient, standard errors are robust to any dependence within a net (clusters), and intervals
    are Student's with nets − 1 degrees of freedom. 10^slope is the factor for one layer more, or for twice the width.

    Rows whose measure is 0 or unknown are left out; bias is regressed for estimators that are not unbiased.

    Source: Liang & Zeger, Biometrika 73, 1986, doi:10.1093/biomet/73.1.13.
    """
    from statsmodels.formula.api import ols

    rows = table[(table["layer"] == layer) & (table[measure] > 0)].copy()
    if measure == "relative_bias":
        rows = rows[~rows["unbiased"].astype(bool)]
    rows["response"] = np.log10(rows[measure])
    rows["log2_width"] = np.log2(rows["width"])
    columns = ["measure", "estimator", "term", "slope", "slope_low", "slope_high", "pvalue", "nets"]
    covariates = [name for name in COVARIATES if rows[name].round(9).nunique() > 1]
    categories = [o for o in options if o not in _OPTIONS_THAT_ARE_NETS and rows[o].astype(str).nunique() > 1]
    if rows["net"].nunique() < 3 or not covariates:
        return pd.DataFrame(columns=columns)
    # one model for each estimator is the same as one with all interactions, and clusters do not mix
    found = []
    for name, group in rows.groupby("estimator", sort=False):
        kept = [c for c in covariates if group[c].round(9).nunique() > 1]
        if group["net"].nunique() < len(kept) + 3:
            continue
        others = [f"C({c})" for c in categories if group[c].astype(str).nunique() > 1]
        model = ols(f"response ~ {' + '.join([*kept, *others])}", group)
        # nets are the same random weights at every level of a category: one seed and shape is one cluster
        clusters = group.groupby([o for o in options if o not in categories], sort=False, dropna=False).ngroup()
        if clusters.nunique() < len(kept) + 3:
            continue
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
        limits = fit.conf_int()
        for term in kept:
            row = (measure, name, term, fit.params[term], *limits.loc[term], fit.pvalues[term], clusters.nunique())
            found.append(dict(zip(columns, row, strict=True)))
    return pd.DataFrame(found, columns=columns)


def geometric_mean(values: pd.Series) -> Interval:
    """The geometric mean with Student's 95 % interval of the logarithm."""
    logs = np.log10(np.asarray(values[values > 0], dtype=float))
    if not logs.size:
        return Interval(math.nan, math.nan, math.nan)
    error = logs.std(ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    return mean_interval(float(logs.mean()), error, len(logs)).map(lambda v: 10**v)


def trend_figure(table: pd.DataFrame, covariate: str, measures: Sequence[str] = tuple(MEASURES)) -> Figure | None:
    """Each measure against depth or width: geometric means over nets with 95 % intervals."""
    rows = table[table["layer"] == "all"]
    if rows[covariate].round(9).nunique() < 2:
        return None
    names = [str(name) for name in rows["estimator"].unique()]
    unbiased = rows.groupby("estimator")["unbiased"].all()
    ticks = np.sort(rows[covariate].round(9).unique())
    logarithmic = covariate == "width"
    step = float(np.diff(np.log(ticks) if logarithmic else ticks).min())
    looks = styles(names)
    with paper_style():
        figure = Figure(
            figsize=(2.5 * len(measures) + 0.4, 2.6 + 0.18 * math.ceil(len(names) / 4)), layout="constrained"
        )
        for ax, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            kept = rows[rows[measure] > 0]
            if measure == "relative_bias":
                kept = kept[~kept["unbiased"].astype(bool)]
            for name, group in kept.groupby("estimator", sort=False):
                found = group.groupby(group[covariate].round(9))[measure].agg(geometric_mean)
                aside = 0.5 * step * ((names.index(str(name)) + 0.5) / len(names) - 0.5)  # bars side by side
                x = found.index.to_numpy() * math.exp(aside) if logarithmic else found.index.to_numpy() + aside
                y = np.array([i.estimate for i in found])
                ends = np.array([[i.estimate - i.low, i.high - i.estimate] for i in found]).T
                ax.errorbar(x, y, ends, elinewidth=0.8, **_line(looks[str(name)], bool(unbiased[name])))
            scale = "log" if logarithmic else "linear"
            ax.set(title=MEASURES[measure], xlabel=covariate, xscale=scale, yscale="log")
            log_axis(ax, "y", *ax.get_ylim())
            if len(ticks) <= 8:
                ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                ax.xaxis.set_minor_locator(NullLocator())
            ax.grid(color="0.92", linewidth=0.6)
            sns.despine(ax=ax)
        handles = [Line2D([], [], **_line(looks[name], bool(unbiased[name]))) for name in names]
        labels = [printable(name) for name in names]
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(names)), frameon=False)
    return figure


def _line(look: Any, unbiased: bool) -> dict[str, Any]:
    return {
        "color": look.colour,
        "marker": look.marker,
        "markersize": 3.5,
        "linestyle": "-" if unbiased else (0, (4, 1.5)),
        "markerfacecolor": look.colour if unbiased else "white",
    }
