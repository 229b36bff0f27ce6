"""A saved training: its tables. It knows no network and trains nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.statistics import ENDS, UNKNOWN, Interval, mean_interval
from gradeval.analysis.training_folder import LATER, TRAINING_TABLES, read_training, write_training
from gradeval.analysis.training_pairs import paired_differences


def over_seeds(values: pd.Series) -> Interval:
    """The mean over seeds with Student's 95 % interval.

    Args:
        values: one for each seed; NaN where there is none.

    Returns:
        The mean; without ends for one seed, NaN for none.

    Examples:
        >>> over_seeds(pd.Series([1.0, 3.0])).estimate
        2.0
    """
    known = np.asarray(values.dropna(), dtype=float)
    if len(known) == 0:
        return UNKNOWN
    error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return mean_interval(float(known.mean()), error, len(known))


@dataclass(frozen=True)
class Training:
    """What `gradeval.train` found.

    Attributes:
        manifest: protocol, versions, the problem's facts.
        tables: by name, see `TRAINING_TABLES`.
    """

    manifest: dict[str, Any]
    tables: dict[str, pd.DataFrame]

    def __post_init__(self) -> None:
        for name, columns in TRAINING_TABLES.items():
            table = self.tables.get(name, pd.DataFrame()) if name == LATER else self.tables[name]
            object.__setattr__(self, "tables", self.tables | {name: table.reindex(columns=columns)})

    @property
    def estimators(self) -> list[str]:
        """Names, in the order they were given."""
        return list(self.manifest["estimators"])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Loss and accuracy of the trained networks, means over seeds with 95 % intervals.

        One row per estimator × split × predictor. Predictor "expected" is the objective, E[loss] over the network's
        states.
        """
        rates = self.tables["curves"].groupby("estimator")["rate"].first()
        rows = []
        keys = ["estimator", "split", "predictor"]
        for (name, split, predictor), group in self.tables["predictions"].groupby(keys, sort=False):
            row: dict[str, Any] = {"estimator": name, "split": split, "predictor": predictor}
            row |= {"rate": rates[name], "seeds": len(group)}
            for key in ("loss", "accuracy"):
                found = over_seeds(group[key])
                if key == "accuracy":  # a share; np.clip keeps an unknown end unknown
                    ends = np.clip([found.low, found.high], 0.0, 1.0)
                    found = Interval(found.estimate, *map(float, ends))
                row |= found.columns(key)
            rows.append(row)
        columns = [*keys, "rate", "seeds", *(f"{k}{end}" for k in ("loss", "accuracy") for end in ENDS)]
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def speed(self) -> pd.DataFrame:
        """Epochs until the objective of a run is as low as the worst estimator's mean at the end; estimator × seed."""
        curves = self.tables["curves"].dropna(subset="objective")
        final = curves[curves["epoch"] == curves["epoch"].max()].groupby("estimator")["objective"].mean()
        level = final.max() if len(final) else math.nan
        rows = []
        for (name, seed), run in curves.groupby(["estimator", "seed"], sort=False):
            reached = run.loc[run["objective"] <= level, "epoch"]
            epochs = float(reached.min()) if len(reached) else math.inf
            rows.append({"estimator": name, "seed": seed, "level": level, "epochs": epochs})
        return pd.DataFrame(rows, columns=["estimator", "seed", "level", "epochs"])

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every two estimators compared at common seeds, see `paired_differences`."""
        return paired_differences(self.tables["predictions"])

    @cached_property
    def best(self) -> str | None:
        """The estimator with the lowest mean training objective; None where nothing is trained."""
        final = self.summary[(self.summary["split"] == "train") & (self.summary["predictor"] == "expected")]
        final = final.dropna(subset="loss").sort_values("loss")
        return str(final["estimator"].iloc[0]) if len(final) else None

    def save(self, folder: str | Path) -> None:
        """Write tables (csv and parquet) and manifest, see `write_training`.

        Args:
            folder: is made if need be.
        """
        made = {"summary": self.summary, "speed": self.speed, "pairs": self.pairs}
        write_training(Path(folder), self.manifest, self.tables | made)

    @classmethod
    def load(cls, folder: str | Path) -> Training:
        """Read a saved training.

        Args:
            folder: of the training.

        Returns:
            Its manifest and tables.

        Raises:
            GradevalError: in one line, that it is missing, not finished or damaged.
        """
        return cls(*read_training(Path(folder)))
