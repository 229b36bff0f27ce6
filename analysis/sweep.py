"""The table of a sweep: regressions of accuracy on width and depth, and figures. It evaluates nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from gradeval.analysis.drawing import USUAL, Drawing, GivenAxes, Look, Panels, chosen
from gradeval.analysis.plotting import log_axis, save_figure, tidy
from gradeval.analysis.statistics import UNKNOWN, Interval, mean_interval
from gradeval.analysis.tables import table_files, without_timings
from gradeval.errors import GradevalError
from gradeval.files import write_whole

SWEEP_FORMAT = "gradeval-sweep/2"
SWEEP_MEASURES = {
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
        found = [regress(self.table, measure, self.options) for measure in SWEEP_MEASURES]
        return pd.concat(found, ignore_index=True)

    def save(self, folder: str | Path) -> None:
        """Write the tables (csv and parquet), each whole or not at all.

        Args:
            folder: is made if need be.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("sweep", self.table), ("regressions", self.regressions)):
            for file, content in table_files(name, without_timings(table)).items():
                write_whole(folder / file, content)

    @classmethod
    def load(cls, folder: str | Path) -> Sweep:
        """Read a saved sweep.

        Args:
            folder: of the sweep.

        Returns:
            The sweep, without timings.

        Raises:
            GradevalError: it is missing or damaged.
        """
        path = Path(folder) / "sweep.parquet"
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise GradevalError(f"{folder} is not a sweep: {path.name} cannot be read ({error}).") from None
        if "net" not in table:
            raise GradevalError(f"{path} is not the table of a sweep: it has no column 'net'.")
        return cls(table)


def build_sweep_figures(sweep: Sweep, folder: str | Path) -> None:
    """Write the figures of a sweep into `figures/`.

    Args:
        sweep: its table is read.
        folder: of the sweep; is made if need be.
    """
    figures = Path(folder) / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for covariate in ("depth", "width"):
        save_figure(trend_figure(sweep.table, covariate).figure, figures, covariate)


def regress(
    table: pd.DataFrame, measure: str, options: Sequence[str], layer: str = "all", clusters: Sequence[str] = ()
) -> pd.DataFrame:
    """Regress log₁₀ of a measure on depth and log₂ width, with an intercept and slopes for every estimator.

    The other options that vary (stage, noise) enter as categories, for every estimator. Least squares; since a net's
    estimators share its gradient, standard errors are robust to any dependence within a net (clusters), and intervals
    are Student's with nets − 1 degrees of freedom. 10^slope is the factor for one layer more, or for twice the width.

    Rows whose measure is 0 or unknown are left out; bias is regressed for estimators that are not unbiased.

    Source: Liang & Zeger, Biometrika 73, 1986, doi:10.1093/biomet/73.1.13.

    Args:
        table: of a sweep.
        measure: one of its columns, such as "relative_variance".
        options: the columns that are options of the problem.
        layer: whose rows are taken.
        clusters: columns whose values name a cluster, such as "seed", where nets that share them depend on each other,
            by their data, say; by default a cluster is a net.

    Returns:
        Columns measure, estimator, term, slope, slope_low, slope_high, pvalue and nets (the number of clusters); no
        rows where there are too few networks.
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
        by = list(clusters) or [o for o in options if o not in categories]
        groups = group.groupby(by, sort=False, dropna=False).ngroup()
        if groups.nunique() < len(kept) + 3:
            continue
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
        limits = fit.conf_int()
        for term in kept:
            row = (measure, name, term, fit.params[term], *limits.loc[term], fit.pvalues[term], groups.nunique())
            found.append(dict(zip(columns, row, strict=True)))
    return pd.DataFrame(found, columns=columns)


def geometric_mean(values: pd.Series) -> Interval:
    """The geometric mean with Student's 95 % interval of the logarithm.

    Args:
        values: those that are not above zero are left out.

    Returns:
        The mean; without ends for one value, NaN for none.

    Examples:
        >>> geometric_mean(pd.Series([1.0, 100.0])).estimate
        10.0
    """
    logs = np.log10(np.asarray(values[values > 0], dtype=float))
    if not logs.size:
        return UNKNOWN
    error = logs.std(ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    return mean_interval(float(logs.mean()), error, len(logs)).map(lambda v: 10**v)


def trend_figure(table: pd.DataFrame, covariate: str, drawing: Drawing = USUAL, ax: GivenAxes = None) -> Panels:
    """Draw each measure against depth or width: geometric means over networks with 95 % intervals.

    The bias is that of estimators that do not claim to have none, or whose claim is refuted.

    Args:
        table: of a sweep.
        covariate: "depth" or "width".
        drawing: which estimators, layer ("all", or the one that is chosen) and panels (keys of `SWEEP_MEASURES`), and
            how they look.
        ax: axes of your own, one for each panel. By default a new figure is made.

    Returns:
        The axes by measure; none where the networks are all of one size.

    Raises:
        GradevalError: several layers are chosen.
    """
    layers = chosen("layer", drawing.layers, [str(layer) for layer in table["layer"].unique()], ["all"])
    if len(layers) != 1:
        raise GradevalError(f"a trend is of one layer; found {', '.join(layers)}: choose one.")
    rows = table[table["layer"] == layers[0]]
    look = drawing.look(
        map(str, rows["estimator"].unique()), rows.groupby("estimator")["unbiased_claim"].all().to_dict()
    )
    measures = chosen("panel", drawing.panels, list(SWEEP_MEASURES), list(SWEEP_MEASURES))
    if rows[covariate].round(9).nunique() < 2:
        return Panels()
    with drawing.settings(ax):
        panels = Panels.open(measures, drawing, ax, (2.5 * len(measures) + 0.4, 2.6), len(measures))
        for measure, panel in panels.items():
            _trend(panel, rows, covariate, measure, look)
        return panels.finish(drawing, {name: look.entry(name, line=True) for name in look.names})


def _trend(ax: Axes, rows: pd.DataFrame, covariate: str, measure: str, look: Look) -> None:
    names = look.names
    ticks = np.sort(rows[covariate].round(9).unique())
    logarithmic = covariate == "width"
    step = float(np.diff(np.log(ticks) if logarithmic else ticks).min())
    kept = rows[(rows[measure] > 0) & rows["estimator"].isin(names)]
    if measure == "relative_bias":
        claims, seen = kept["unbiased_claim"].astype(bool), kept["verdict"].str.contains("refuted")
        kept = kept[~claims | seen]  # what the draws of the others show is noise
    for name, group in kept.groupby("estimator", sort=False):
        found = group.groupby(group[covariate].round(9))[measure].agg(geometric_mean)
        aside = 0.5 * step * ((names.index(str(name)) + 0.5) / len(names) - 0.5)  # bars side by side
        x = found.index.to_numpy() * math.exp(aside) if logarithmic else found.index.to_numpy() + aside
        y = np.array([i.estimate for i in found])
        ends = np.array([[i.estimate - i.low, i.high - i.estimate] for i in found]).T
        ax.errorbar(x, y, ends, elinewidth=0.8, label=look.label(str(name)), **look.line(str(name)))
    scale = "log" if logarithmic else "linear"
    ax.set(title=SWEEP_MEASURES[measure], xlabel=covariate, xscale=scale, yscale="log")
    log_axis(ax, "y", *ax.get_ylim())
    if len(ticks) <= 8:
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    tidy(ax)
