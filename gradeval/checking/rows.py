"""The rows of a verdict's table: one for each layer of each problem."""

from __future__ import annotations

import math
from typing import Any

from gradeval.checking.claims import RowState, State, worst
from gradeval.checking.findings import Finding
from gradeval.checking.subject import Subject


def table_rows(subject: Subject) -> list[dict[str, Any]]:
    """What is known of an estimator on one problem.

    Args:
        subject: the estimator on the problem.

    Returns:
        A row for each layer with a gradient; the columns are those of `Verdict.table`.
    """
    value = subject.value
    error = math.nan if value is None else (value.mean - value.exact) / max(abs(value.exact), 1e-300)
    return [_row(subject, finding) | {"value_error": error} | _judged(subject, finding) for finding in subject.findings]


def _row(subject: Subject, finding: Finding) -> dict[str, Any]:
    bias, cosine = finding.relative_bias, finding.cosine
    return {
        "problem": subject.place.name,
        "layer": finding.layer,
        "method": "sampled" if finding.draws else "exact",
        "draws": finding.draws,
        "scale": finding.scale,
        "cosine": cosine[0],
        "cosine_low": cosine[1],
        "cosine_high": cosine[2],
        "relative_bias": bias[0],
        "relative_bias_low": bias[1],
        "relative_bias_high": bias[2],
        "relative_variance": finding.variance,
        "relative_variance_low": finding.variance_low,
        "relative_variance_high": finding.variance_high,
    }


def _judged(subject: Subject, finding: Finding) -> dict[str, Any]:
    judged = subject.claims.judge(finding, subject.limits.detect)
    state = worst(judged.values())
    value_fails = subject.claims.unbiased and subject.value is not None and subject.value.unequal
    row = RowState.VALUE_FAILS if value_fails and state is not State.FAILS else RowState(state.value)
    if subject.limits.edge and state is State.UNDECIDED and not value_fails:
        row = RowState.LIMITED
    return {"detectable": finding.detectable, "verdict": row if judged else RowState.UNJUDGED}
