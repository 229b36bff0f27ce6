"""The verdict on an estimator that is compared with another one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from gradeval.checking.claims import RowState, State, worst
from gradeval.checking.conclusion import on_problems
from gradeval.checking.diagnosis import diagnose
from gradeval.checking.equality import VARIANCE_DETECT, Definition, Difference, Pair
from gradeval.checking.limits import Limits
from gradeval.checking.verdict import Verdict


def conclude_equality(name: str, definition: Definition, limits: Limits, pairs: Sequence[Pair]) -> Verdict:
    """The verdict on an estimator that is compared with another one.

    Args:
        name: of the estimator.
        definition: what it should be equal to.
        limits: what was spent.
        pairs: both estimators on every problem.

    Returns:
        The verdict, with its diagnosis.
    """
    notes = on_problems([(note, pair.problem.name) for pair in pairs for note in pair.notes], len(pairs))
    known = (limits.alpha, limits.detect, limits.seed)
    if trouble := [(pair.trouble, pair.problem.name) for pair in pairs if pair.trouble]:
        lines = on_problems(trouble, len(pairs))
        return Verdict(name, State.FAILS, definition.words(), pd.DataFrame(), lines, notes, *known)
    table = pd.DataFrame([_row(pair, difference) for pair in pairs for difference in pair.differences])
    state = worst(pair.state for pair in pairs)
    lines = _explained(definition, pairs) if state is State.FAILS else []
    if state is State.UNDECIDED:
        notes += _why_open(table, limits)
    rarest = max(pair.rarest for pair in pairs)
    return Verdict(name, state, definition.words(), table, lines, notes, *known, rarest, definition.name)


def _row(pair: Pair, difference: Difference) -> dict[str, Any]:
    finding, scale = difference.finding, abs(pair.theirs.truth.value) or 1e-300
    value_fails = pair.value_state is State.FAILS and not difference.row_state.fails
    row: dict[str, Any] = {
        "problem": finding.place.name,
        "layer": finding.layer,
        "method": "sampled" if finding.draws else "exact",
        "draws": finding.draws,
        "scale": finding.scale if difference.comparable else math.nan,
        "cosine": finding.cosine[0] if difference.comparable else math.nan,
        "relative_variance": finding.variance,
        "value_error": (pair.value[0] - pair.value[1]) / scale,
        "detectable": finding.detectable,
        "detectable_variance": difference.detectable_variance,
        "verdict": RowState.VALUE_FAILS if value_fails else difference.row_state,
    }
    for key, numbers in (("relative_bias", difference.difference), ("variance_ratio", difference.variance)):
        row |= dict(zip((key, f"{key}_low", f"{key}_high"), numbers, strict=True))
    return row


def _explained(definition: Definition, pairs: Sequence[Pair]) -> list[str]:
    """What differs, in words."""
    found = [difference for pair in pairs for difference in pair.differences]
    comparable = [difference.finding for difference in found if difference.comparable]
    of = f"of {definition.name}"
    lines = [line.replace("the exact gradient", f"the mean {of}") for line in diagnose(comparable, [])]
    lines += [
        f"{d.finding.place.name}, layer {d.finding.layer}: the mean {of} is zero, but the mean gradient is not"
        for d in found
        if not d.comparable and d.mean_state is State.FAILS
    ]
    if wrong := [d for d in found if d.row_state is RowState.VARIANCE_FAILS]:
        extreme = max(wrong, key=lambda d: abs(math.log(max(d.variance[0], 1e-300))))
        where = f"{extreme.finding.place.name}, layer {extreme.finding.layer}"
        text = f"the variance is {extreme.variance[0]:.4g} times that {of}: on {where}"
        if abs(extreme.variance[0] - 1) < 1e-6:
            text = f"the entries of the gradient have other variances or covariances than those {of}: on {where}"
        lines.append(f"{text} ({len(wrong)} of {len(found)} rows, where the mean does not differ)")
    if false := [pair for pair in pairs if pair.value_state is State.FAILS]:
        mine, theirs = false[0].value
        where = f"on {false[0].problem.name} ({len(false)} of {len(pairs)} problems)"
        lines.append(f"the value: E[value] is {mine:.4g}, that {of} is {theirs:.4g} {where}")
    return lines


def _why_open(table: pd.DataFrame, limits: Limits) -> list[str]:
    rows = table[table["verdict"] == State.UNDECIDED]
    if rows.empty:
        return ["undecided: the mean value is not known well enough; raise max-draws or detect"]
    mean, variance = (float(rows[key].max()) for key in ("detectable", "detectable_variance"))
    return [
        f"undecided on {len(rows)} of {len(table)} rows within {int(rows['draws'].max()):,} draws: a relative "
        f"difference of {mean:.2g} of the means, or of {variance:.2g} of the variances, would have been found, but not "
        f"one of {limits.detect:g} or {VARIANCE_DETECT * limits.detect:g}; raise max-draws or detect"
    ]
