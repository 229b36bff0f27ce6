"""The value that `gradeval.evaluate` returns: what a run measured, and the tidy tables that are made from it.

Tables hold no timings, so the same seed gives the same bytes; timings stand in a table of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from gradeval.analysis.run.breakeven import breakeven_table, reduction_table
from gradeval.analysis.run.choice import choice_table
from gradeval.analysis.run.curves import best_curves, fit_table
from gradeval.analysis.run.folder import create_run, read_run, replace_run
from gradeval.analysis.run.latex import latex_table
from gradeval.analysis.run.pairs import pair_table
from gradeval.analysis.run.parameters import parameter_table
from gradeval.analysis.run.record import Record
from gradeval.analysis.run.summary import best_known, summary_table
from gradeval.analysis.run.times import timing_table
from gradeval.analysis.tables import without_timings

SHOWN_COLUMNS = ["estimator", "relative_rmse", "relative_bias", "relative_variance", "cosine", "verdict"]
"""Of the summary, in a notebook."""


@dataclass(frozen=True)
class Evaluation(Record):
    """What `gradeval.evaluate` found: the attributes of `Record`, and tables that are made from them when first used.

    Attributes:
        manifest, exact, slices, moments, curves, exact_moments, points, prediction, rare, own_rare: as of `Record`.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units="2", stage=0, points=4)
        >>> run = gradeval.evaluate(problem, ["st", "psa"], draws=100)
        >>> best = run.best[run.best["layer"] == "all"].set_index("estimator")
        >>> float(best.loc["psa", "relative_bias"])  # exact in a network of one layer
        0.0
    """

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per estimator × layer; the columns are explained in the report."""
        return summary_table(self)

    @cached_property
    def best(self) -> pd.DataFrame:
        """`summary` with exact bias and variance in place of the estimates where they are known; see `best_known`."""
        return best_known(self.summary)

    @cached_property
    def breakeven(self) -> pd.DataFrame:
        """From how many draws on an unbiased estimator beats a biased one; see `breakeven_table`."""
        return breakeven_table(self.best)

    @cached_property
    def variance_reduction(self) -> pd.DataFrame:
        """The share of the variance from REINFORCE to RAM that an estimator removes; see `reduction_table`."""
        return reduction_table(self.best)

    @cached_property
    def fits(self) -> pd.DataFrame:
        """bias² + variance/M fitted to the curves, beside the direct figures; see `fit_table`."""
        return fit_table(self.curves, self.summary)

    @cached_property
    def best_curves(self) -> pd.DataFrame:
        """`curves` with exact errors in place of the estimates where they are known; see `best_curves`."""
        return best_curves(self.curves, self.exact_moments)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Differences between any two estimators, by common random numbers; see `pair_table`."""
        return pair_table(self, self.best)

    @cached_property
    def choice(self) -> pd.DataFrame:
        """The most accurate estimator of each layer at each budget of draws and of seconds; see `choice_table`."""
        return choice_table(self.best, self.pairs)

    @cached_property
    def hyper_parameters(self) -> pd.DataFrame:
        """One row per estimator with its hyper-parameters; see `parameter_table`."""
        return parameter_table(self.manifest)

    @property
    def timings(self) -> pd.DataFrame:
        """Seconds of compute per draw, with intervals."""
        return timing_table(self.manifest["timings"])

    def save(self, folder: str | Path) -> Path:
        """Write manifest, moments and tables (csv and parquet) into a new folder, whole or not at all.

        Args:
            folder: absent or empty.

        Returns:
            The folder.

        Raises:
            GradevalError: the folder exists and is not empty, or cannot be written.
        """
        create_run(Path(folder), self, _saved_tables(self))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read a saved run.

        Args:
            folder: of the run.

        Returns:
            The run, as it was saved.

        Raises:
            GradevalError: in one line: the run is missing, of another format or damaged.
        """
        record = read_run(Path(folder))
        return cls(*(getattr(record, field.name) for field in fields(record)))

    def report(self, path: str | Path) -> Path:
        """Write the report, one page with all figures.

        Args:
            path: of the page, ending in .html; or of a folder for report.html and figures/.

        Returns:
            The path of the page.
        """
        from gradeval.analysis.run.report import write_report

        return write_report(self, Path(path))

    def latex(self, **options: Any) -> str:
        """A LaTeX table for a paper.

        Args:
            options: as of `gradeval.analysis.run.latex.latex_table`.

        Returns:
            The text of the table.
        """
        return latex_table(self, **options)

    def __repr__(self) -> str:
        title, best = _shown(self)
        return f"{title}\n{best.to_string(index=False, float_format='{:.3g}'.format)}"

    def _repr_html_(self) -> str:
        title, best = _shown(self)
        html: str = best.to_html(index=False, float_format="{:.3g}".format)
        return f"<b>{escape(title)}</b>{html}"

    def rewrite(self, folder: str | Path) -> None:
        """Make the files of a saved run anew from its moments and curves.

        Args:
            folder: of the run.

        Raises:
            CannotWrite: a full disk, say; the files are as they were.
        """
        replace_run(Path(folder), self, _saved_tables(self))


def _saved_tables(run: Evaluation) -> dict[str, pd.DataFrame]:
    tables = {
        "summary": run.summary,
        "curves": run.curves,
        "exact_moments": run.exact_moments,
        "breakeven": run.breakeven,
        "pairs": run.pairs,
        "variance_reduction": run.variance_reduction,
        "fits": run.fits,
        "points": run.points,
        "prediction": run.prediction,
    }
    kept = {name: without_timings(table) for name, table in tables.items() if table is not None}
    choice = run.choice.assign(rivals=run.choice["rivals"].map("; ".join))
    return kept | {"timings": run.timings, "choice": choice}


def _shown(run: Evaluation) -> tuple[str, pd.DataFrame]:
    """What terminals and notebooks show: a title and a table."""
    problem, draws = run.manifest["problem"], run.manifest["draws"]
    title = f"{problem['name']}: {len(run.moments)} estimators, {draws:,} draws, all layers"
    best = run.best[run.best["layer"] == "all"].sort_values("relative_rmse")
    return title, best[SHOWN_COLUMNS]
