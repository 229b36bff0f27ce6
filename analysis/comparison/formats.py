"""A comparison as JSON, Markdown and JUnit XML, in which no name of an estimator can turn into markup."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from gradeval.analysis.comparison.outcome import Measure, Outcome
from gradeval.analysis.hypotheses import DETECTION
from gradeval.analysis.numbers import layer_title, listed, significant


def cells(row: Any) -> tuple[str, ...]:
    """A row of a comparison as text.

    Args:
        row: of its table, as ``itertuples`` gives it.

    Returns:
        Estimator, layer, measure, old, new, change, adjusted p-value and verdict.
    """

    def text(value: float, form: str = ".4g") -> str:
        return "" if math.isnan(value) else format(value, form)

    measure = Measure(row.measure)
    return (
        row.estimator,
        row.layer,
        measure.value,
        text(row.old),
        text(row.new),
        text(row.change, "+.1%" if measure.is_ratio else ".4g" if measure is Measure.BIAS else "+.4g"),
        "< 1e-15" if row.pvalue_adjusted < 1e-15 else text(row.pvalue_adjusted, ".1e"),
        Outcome(row.verdict).value,
    )


def sight(table: pd.DataFrame) -> list[str]:
    """What a comparison could have seen.

    Args:
        table: of the comparison.

    Returns:
        A sentence on its tests, with the smallest and the largest of the detectable changes of each measure, and where
        the largest is; and one on what was compared without a test. None where there are no such rows.
    """
    said, parts = [], []
    for measure, rows in table[table["detectable"].notna()].groupby("measure", sort=False):
        factor, unit, most = _SIGHT[Measure(measure)]
        sizes = rows["detectable"].where(rows["detectable"] <= most, math.inf)
        least, largest = (significant(factor * size, 2) for size in (sizes.min(), sizes.max()))
        row = rows.loc[sizes.idxmax()]
        where = f"({row['estimator']}, {layer_title(row['layer'])})"
        if math.isinf(sizes.max()):
            parts.append(f"{measure} {least}{unit} to none at all {where}")
        else:
            parts.append(f"{measure} {least if least == largest else f'{least} to {largest}'}{unit} {where}")
    if parts:
        said.append(f"Changes that a test would have found with probability {DETECTION:.0%}: {'; '.join(parts)}.")
    untested = table[table["detectable"].isna() & table["measure"].isin([Measure.BIAS, Measure.VARIANCE])]
    if len(untested):
        names = listed(map(str, untested["estimator"].unique()))
        said.append(
            f"{len(untested)} changes of bias or variance are compared without a test, known exactly or as no "
            f"draw differs: of {names}."
        )
    return said


_SIGHT = {
    Measure.BIAS: (1.0, " of ‖g*‖", math.inf),
    Measure.VARIANCE: (100.0, " %", math.inf),
    Measure.COSINE: (1.0, "", 2.0),
}
"""Of each tested measure how a change is written, factor and unit, and how large it may be."""


def json_text(facts: Mapping[str, Any], table: pd.DataFrame) -> str:
    """A comparison as one JSON object.

    Args:
        facts: what is said of the comparison as a whole.
        table: of the comparison; it becomes ``rows``.

    Returns:
        JSON, with null for a number that is not known.
    """
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    return json.dumps({**facts, "rows": rows}, allow_nan=False)


def markdown_text(answer: str, changed: pd.DataFrame, notes: Sequence[str]) -> str:
    """A comparison as Markdown: the answer, a table of what changed and the notes.

    Args:
        answer: one sentence.
        changed: the rows to be shown.
        notes: a sentence each.

    Returns:
        The text.
    """
    lines = [f"### gradeval compare: {_markdown(answer)}", ""]
    if len(changed):
        lines += ["| estimator | layer | measure | old | new | change | p (adjusted) | verdict |"]
        lines += ["|---|---|---|---:|---:|---:|---:|---|"]
        lines += [f"| {' | '.join(map(_markdown, cells(row)))} |" for row in changed.itertuples()]
        lines += [""]
    lines += [f"- {_markdown(note)}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def junit_text(table: pd.DataFrame) -> str:
    """A comparison as JUnit XML: one test case per row, one failure per regression.

    Args:
        table: of the comparison.

    Returns:
        The document.
    """
    failures = sum(Outcome(verdict).is_regression for verdict in table["verdict"])
    suite = ElementTree.Element(
        "testsuite", name="gradeval compare", tests=str(len(table)), failures=str(failures), errors="0"
    )
    for row in table.itertuples():
        layer = f"layer {row.layer}" if row.layer.isdigit() else row.layer
        name = " ".join(filter(None, (layer, row.measure))) or row.verdict
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(row.estimator), name=_xml(name))
        outcome = Outcome(row.verdict)
        if outcome.is_regression:
            _, _, _, old, new, change, pvalue, _ = cells(row)
            words = f"{outcome}: {old} → {new} (change {change}, adjusted p {pvalue})"
            message = "the new run lacks it" if outcome is Outcome.MISSING else words
            ElementTree.SubElement(case, "failure", message=_xml(message), type=outcome.value)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _markdown(text: str) -> str:
    """Text that no name can turn into markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 forbids."""
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
