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
