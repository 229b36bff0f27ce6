"""How numbers and names are written in reports and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gradeval.analysis.statistics import ENDS


@dataclass(frozen=True)
class NumberCell:
    """A number in a table of a report.

    Attributes:
        value: by which the page's script sorts, see `sortable`.
        text: the number as it is shown.
        interval: in small print beside it; empty where there is none.
    """

    value: str
    text: str
    interval: str = ""


def significant(value: float, digits: int = 3) -> str:
    """Write a number without an exponent where that is readable.

    Args:
        value: any number.
        digits: significant digits.

    Returns:
        The number; a dash for NaN, ∞ for an infinite one.

    Examples:
        >>> [significant(v) for v in (0.034567, 1234.5, 2e-5, 0.0, math.nan)]
        ['0.0346', '1,234', '2.00e-05', '0', '–']
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    if abs(value) < 1e-9:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def duration(seconds: float, digits: int = 3) -> str:
    """Write a time in the unit that suits it.

    Args:
        seconds: any number.
        digits: significant digits.

    Returns:
        The time with its unit; a dash for NaN, ∞ for an infinite one.

    Examples:
        >>> [duration(v) for v in (75.0, 0.0012, 3.4e-5, 2e-8)]
        ['75.0 s', '1.20 ms', '34.0 µs', '20.0 ns']
    """
    if not math.isfinite(seconds):
        return "–" if math.isnan(seconds) else "∞"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{significant(seconds / size, digits)} {unit}"
    return f"{significant(seconds / 1e-9, digits)} ns"


def sortable(value: float) -> str:
    """Write a number for the script that sorts a report's tables.

    Args:
        value: any number.

    Returns:
        The number in full; empty, which is sorted last, for NaN.

    Examples:
        >>> sortable(0.5), sortable(math.inf), sortable(math.nan)
        ('0.5', 'Infinity', '')
    """
    return "" if math.isnan(value) else "Infinity" if math.isinf(value) else repr(float(value))


def number_cell(value: float) -> NumberCell:
    """A number with three significant digits and no interval.

    Args:
        value: any number.

    Returns:
        Its cell.

    Examples:
        >>> number_cell(0.034567)
        NumberCell(value='0.034567', text='0.0346', interval='')
    """
    return NumberCell(sortable(value), significant(value))


def interval_cell(row: Any, key: str, percent: bool = False) -> NumberCell:
    """A number to the digits that its 95 % interval supports (at most four), and the interval where it has one.

    Args:
        row: of a table, a mapping or a Series: ``key``, ``key_low`` and ``key_high``, the ends being optional.
        key: the column.
        percent: whether to show percentages.

    Returns:
        Its cell.

    Examples:
        >>> interval_cell({"x": 0.08345, "x_low": 0.0, "x_high": 0.17}, "x")
        NumberCell(value='0.08345', text='0.083', interval='[0, 0.17]')
    """
    value = float(row[key])
    low, high = (float(row.get(f"{key}{end}", math.nan)) for end in ENDS[1:])
    factor, unit = (100.0, "%") if percent else (1.0, "")
    half = (high - low) / 2
    if not half > 1e-6 * abs(value):  # no interval, or one from rounding
        return NumberCell(sortable(value), significant(factor * value) + unit * math.isfinite(value))
    digits = 3
    if value and math.isfinite(half):
        digits = min(4, max(2, 2 + math.floor(math.log10(abs(value))) - math.floor(math.log10(half))))
    ends = f"[{significant(factor * low, digits)}, {significant(factor * high, digits)}]"
    return NumberCell(sortable(value), significant(factor * value, digits) + unit, ends)


def interval_text(row: Any, key: str, factor: float = 1.0) -> str:
    """A number and its interval with three significant digits each.

    Args:
        row: of a table, a mapping or a Series: ``key``, ``key_low`` and ``key_high``.
        key: the column.
        factor: 100 for percentages.

    Returns:
        "value [low, high]"; the value alone without an interval, a dash without a value.

    Examples:
        >>> interval_text({"x": 0.5, "x_low": 0.4, "x_high": 0.6}, "x", 100.0)
        '50.0 [40.0, 60.0]'
    """
    value, low, high = (factor * float(row[f"{key}{end}"]) for end in ENDS)
    if math.isnan(value):
        return "–"
    if math.isnan(low):
        return significant(value)
    return f"{significant(value)} [{significant(low)}, {significant(high)}]"


def listed(words: Iterable[str]) -> str:
    """Join words as in a sentence.

    Args:
        words: at least one.

    Returns:
        The words with commas, and "and" before the last.

    Examples:
        >>> listed(["st"]), listed(["st", "arm", "psa"])
        ('st', 'st, arm and psa')
    """
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def sentence(text: str) -> str:
    """Begin with a capital and end with a full stop.

    Args:
        text: not empty.

    Returns:
        The sentence.

    Examples:
        >>> sentence("the claim holds")
        'The claim holds.'
    """
    return f"{text[0].upper()}{text[1:]}."


def layer_title(layer: str) -> str:
    """The name of a layer in words.

    Args:
        layer: "1" … "L", "head" or "all".

    Returns:
        The words.

    Examples:
        >>> layer_title("1"), layer_title("head"), layer_title("all")
        ('layer 1', 'head', 'all layers')
    """
    return {"head": "head", "all": "all layers"}.get(layer, f"layer {layer}")
