"""The verdict on an estimator, and its text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradeval.checking.claims import RowState, State
from gradeval.checking.sequential import POWER
from gradeval.notebook import card


@dataclass(frozen=True)
class Verdict:
    """What `check` found.

    Attributes:
        name: of the estimator.
        verdict: holds, fails or undecided; a `State`, which is a text.
        claims: in words.
        table: one row per problem and layer. scale ⟨E g, g*⟩/‖g*‖², cosine between E[g] and g*, relative_bias
            ‖E g − g*‖/‖g*‖ and relative_variance tr Cov(g)/‖g*‖² of one draw, with bounds that hold for all rows and at
            all times together with probability 1 − α; value_error (E[value] − J)/|J|; detectable, the relative
            bias that would have been found with probability 0.99 (zero: exact).
        diagnosis: what is wrong, in words.
        notes: what the user should know besides.
        alpha, detect, seed: as given.
        rarest: the probability below which an event of chance may have been missed by all tests; zero: none.
        against: the name of the estimator that this one is compared with; then E[g] and E[value] of that one take the
            place of g* and J, and the table has tr Cov(g) relative to its variance (variance_ratio, with bounds) and
            the relative difference of variances that would have been found (detectable_variance), too. Empty: none.
    """

    name: str
    verdict: State
    claims: list[str]
    table: pd.DataFrame
    diagnosis: list[str]
    notes: list[str]
    alpha: float
    detect: float
    seed: int
    rarest: float = 0.0
    against: str = ""

    @property
    def exit_code(self) -> int:
        """The program's exit code: 0 holds, 1 fails, 3 undecided."""
        return {State.HOLDS: 0, State.FAILS: 1, State.UNDECIDED: 3}[self.verdict]

    @property
    def failing(self) -> pd.DataFrame:
        """The rows of the table that speak against the estimator."""
        if self.table.empty:
            return self.table
        return self.table[[RowState(verdict).fails for verdict in self.table["verdict"]]]

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        return f"{self.name}: {', '.join(self.claims) or 'nothing claimed'}: {self.verdict.upper()}"

    @property
    def guarantee(self) -> str:
        """What stands behind the verdict: the error rates, and what may have been missed."""
        if self.table.empty:
            return "No problem could be evaluated."
        sampled, limited = (self.table["method"] == "sampled"), (self.table["verdict"] == RowState.LIMITED)
        exact = f"{_count(self.table[~sampled])} decided exactly, on all joint states"
        if not sampled.any():
            return f"{exact}: no false alarm is possible."
        found = _found(self.table[sampled & ~limited], "in any layer")
        if limited.any():
            where = f"on {_count(self.table[limited])} at the edge of what is usual (rows 'not refuted')"
            found += f" Less is known {where}: {_found(self.table[limited], 'there')[:1].lower()}"
            found += f"{_found(self.table[limited], 'there')[1:]}"
        if self.against and (worst := float(self.table["detectable"][sampled].max())) < math.inf:
            variances = float(self.table["detectable_variance"][sampled].max())
            found = (
                f"A relative difference of {worst:.2g} of the means, or of {variances:.2g} of the variances, in any "
                f"layer would have been found with probability {POWER:g}."
            )
        return (
            f"{exact}; {_count(self.table[sampled])} decided by at most {self.table['draws'].max():,} draws "
            f"(seed {self.seed}): all tests and bounds together err with probability ≤ {self.alpha:g}. {found} "
            f"Events rarer than one in {1 / self.rarest:,.0f} draws may have gone unseen, and are not covered."
        )

    def __str__(self) -> str:
        columns = ["problem", "layer", "scale", "cosine", "relative_bias", "relative_bias_low", "relative_bias_high"]
        columns += ["variance_ratio" if self.against else "relative_variance", "value_error", "verdict"]
        lines = [self.headline, *(f"  {line}" for line in self.diagnosis)]
        if len(self.table):
            well = (State.HOLDS, RowState.LIMITED)
            shown = self.table if self.verdict is State.HOLDS else self.table[~self.table["verdict"].isin(well)]
            lines.append(shown[columns].to_string(index=False, float_format=lambda x: f"{x:.3g}"))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), self.guarantee])

    def _repr_html_(self) -> str:
        return card(self.headline, {}, "\n".join(str(self).splitlines()[1:]))

    def as_dict(self) -> dict[str, Any]:
        """The verdict for JSON.

        Returns:
            A dictionary of texts, numbers and lists; infinities and NaN are None.
        """
        rows = self.table.replace([math.inf, -math.inf], math.nan).astype(object)
        return {
            "estimator": self.name,
            "against": self.against or None,
            "verdict": self.verdict,
            "claims": self.claims,
            "diagnosis": self.diagnosis,
            "notes": self.notes,
            "guarantee": self.guarantee,
            "alpha": self.alpha,
            "detect": self.detect,
            "seed": self.seed,
            "rows": rows.where(rows.notna(), None).to_dict("records"),
        }


def _found(rows: pd.DataFrame, where: str) -> str:
    """What bias would have been found, in a sentence; empty where there are no rows."""
    if rows.empty:
        return ""
    if math.isinf(worst := float(rows["detectable"].max())):
        return "In some layer no bias would have been found, however large."
    return f"A relative bias of {worst:.2g} {where} would have been found with probability {POWER:g}."


def _count(rows: pd.DataFrame) -> str:
    problems = rows["problem"].nunique()
    return f"{problems} problem{'' if problems == 1 else 's'}"
