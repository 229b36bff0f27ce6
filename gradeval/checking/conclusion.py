"""From what is known on all problems to one verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from gradeval.checking.claims import Claims, State, worst
from gradeval.checking.diagnosis import diagnose
from gradeval.checking.findings import Finding
from gradeval.checking.limits import REPLICATES, Limits
from gradeval.checking.places import add_densities
from gradeval.checking.rows import table_rows
from gradeval.checking.sequential import FREEDOM
from gradeval.checking.subject import Subject
from gradeval.checking.verdict import Verdict

NOTHING_CLAIMED = (
    "nothing is claimed, so nothing was judged: give --unbiased or a bound, or set the estimator's attribute `unbiased`"
)


def conclude(name: str, claims: Claims, limits: Limits, subjects: Sequence[Subject]) -> Verdict:
    """The verdict on an estimator.

    Args:
        name: of the estimator.
        claims: what was judged.
        limits: what was spent.
        subjects: the estimator on every problem.

    Returns:
        The verdict, with its diagnosis.
    """
    total = len(subjects)
    notes = on_problems([(note, s.problem.name) for s in subjects for note in s.notes], total)
    known = (limits.alpha, limits.detect, limits.seed)
    # what went wrong on one problem does not hide what was found on the others
    lines = on_problems([(s.trouble, s.problem.name) for s in subjects if s.trouble], total)
    able = [s for s in subjects if not s.trouble]
    table = pd.DataFrame([row for s in able for row in table_rows(s)])
    state = worst(s.state for s in able if not s.limited) if able else State.UNDECIDED
    lines += _explained(claims, limits, able, state)
    notes += [
        f"{s.problem.name}: no layer has a gradient, so there is nothing to compare with"
        for s in able
        if s.vanishing and not s.findings
    ]
    notes += _coupled(able)
    if len(able) < total:
        state = State.FAILS
    elif not claims.words():
        state = State.UNDECIDED
        notes.append(NOTHING_CLAIMED)
    elif state is State.UNDECIDED and len(table):
        notes += _why_undecided(table, limits.detect)
    rarest = max((s.rarest for s in able), default=0.0)
    return Verdict(name, state, claims.words(), table, lines, notes, *known, rarest)


def _coupled(subjects: Sequence[Subject]) -> list[str]:
    """How much the variance grows with the batch, where an estimator's points are coupled."""
    coupled = sorted((s for s in subjects if s.coupled), key=lambda s: (s.place.points, s.coupling))
    if not coupled:
        return []
    growth = {s.place.points: f"{s.coupling:.3g} times with {s.place.points} points" for s in coupled}
    return [
        f"{coupled[0].coupled}, so that it is not decided exactly where there are several. Against points drawn "
        f"independently, the variance of a draw is {', '.join(growth.values())}."
    ]


def _explained(claims: Claims, limits: Limits, subjects: Sequence[Subject], state: State) -> list[str]:
    """What is wrong, in words."""
    lines = []
    if claims.unbiased and state is State.FAILS:
        for s in subjects:
            add_densities(s.problem, s.truth, s.findings)
        lines = diagnose([f for s in subjects for f in s.findings], [s.value for s in subjects if s.value])
    lines += _beyond_bounds(claims, subjects, limits.detect)
    if claims.unbiased:
        lines += [
            f"{s.problem.name}, layer {layer}: the exact gradient is zero, but the mean gradient is not"
            for s in subjects
            for layer, found in s.vanishing.items()
            if found is State.FAILS
        ]
    return lines


def _why_undecided(table: pd.DataFrame, detect: float) -> list[str]:
    open_ = table[table["verdict"] == State.UNDECIDED]
    if open_.empty:
        return []
    where = open_.iloc[open_["detectable"].argmax()]
    bias = f"{where['detectable']:.2g}"
    needed = max(2 * where["draws"], where["draws"] * (where["detectable"] / detect) ** 2)
    why = (
        f"a relative bias of {bias} would have been found, but not one of {detect:g}; raise max-draws, to about "
        f"{needed:.2g}, or detect"
    )
    if math.isinf(where["detectable"]):
        most = REPLICATES - FREEDOM
        why = f"the mean gradient varies in more than {most} directions, too many to test; take fewer parameters"
    return [
        f"undecided on {len(open_)} of {len(table)} rows within {int(open_['draws'].max()):,} draws: on "
        f"{where['problem']}, layer {where['layer']}, {why}"
    ]


def _beyond_bounds(claims: Claims, subjects: Sequence[Subject], detect: float) -> list[str]:
    """One line for each bound that fails, with its worst row."""
    figures: dict[str, tuple[str, Callable[[Finding], float], int, float | None]] = {
        "max_relative_bias": ("relative bias", lambda f: f.relative_bias[0], 1, claims.max_relative_bias),
        "min_cosine": ("cosine of the mean", lambda f: f.cosine[0], -1, claims.min_cosine),
        "max_relative_variance": ("relative variance", lambda f: f.variance, 1, claims.max_relative_variance),
    }
    lines = []
    for claim, (words, figure, sign, bound) in figures.items():
        bad = [f for s in subjects for f in s.findings if claims.judge(f, detect).get(claim) is State.FAILS]
        if bad:
            extreme = max(bad, key=lambda f: sign * figure(f))
            where = f"{extreme.place.name}, layer {extreme.layer}"
            rows = f"the worst of {len(bad)} rows" if len(bad) > 1 else "the only row"
            lines.append(f"the {words} is {figure(extreme):.3g}, the bound is {bound:g}: on {where} ({rows})")
    return lines


def on_problems(pairs: list[tuple[str, str]], total: int) -> list[str]:
    """Every text once, with the problems on which it applies unless these are all.

    Args:
        pairs: texts, each with the name of a problem.
        total: the number of all problems.

    Returns:
        The texts in their order.

    Examples:
        >>> on_problems([("slow", "a"), ("slow", "b"), ("odd", "a")], 2)
        ['slow', 'odd (on 1 of 2 problems, e.g. a)']
    """
    where: dict[str, list[str]] = {}
    for text, problem in pairs:
        where.setdefault(text, []).append(problem)
    return [
        text if len(names) == total else f"{text} (on {len(names)} of {total} problems, e.g. {names[0]})"
        for text, names in where.items()
    ]
