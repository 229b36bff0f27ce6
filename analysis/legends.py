"""Names of estimators in figures, and their legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from gradeval.analysis.plotting import FONT, letters

LONGEST = 34  # characters of a name in a figure


@cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties(family=FONT))).get_charmap())


def printable(name: str, longest: int = LONGEST) -> str:
    """A name that can be drawn on one line.

    Args:
        name: any text.
        longest: number of characters that have room.

    Returns:
        The name; characters that the font lacks become ?, a long name loses its middle.

    Examples:
        >>> printable("模块:mine"), printable("abcdefghij", longest=5)
        ('??:mine', 'ab…ij')
    """
    shown = "".join(c if c.isprintable() and ord(c) in _characters() else "?" for c in name)
    half = (longest - 1) // 2
    return shown if len(shown) <= longest else f"{shown[:half]}…{shown[-half:]}"


def add_legend(
    figure: Figure, entries: Mapping[str, Line2D], title: str | None = None, labels: Mapping[str, str] | None = None
) -> None:
    """Put a legend in the empty panels, if it fits there; else above all, where the figure grows by its height.

    Args:
        figure: with a constrained layout; empty panels are those whose axes are off.
        entries: lines by what is written beside them.
        title: of the legend.
        labels: what is written instead, with mathematics between dollar signs.
    """
    if not entries:
        return
    width, height = (side / letters(1) for side in figure.get_size_inches())  # as if letters were of the usual size
    spare = [ax for ax in figure.axes if not ax.axison]
    if spare:
        grid = spare[0].get_gridspec()
        assert grid is not None
        room = len(spare) * width / grid.ncols, (height - 0.5) / grid.nrows
        widest = 0.45 + 0.067 * max(len(_words(name, labels, 26)) for name in entries)
        columns = max(1, min(len(spare), math.ceil(0.165 * len(entries) / room[1])))
        if columns * widest <= room[0] and 0.165 * math.ceil(len(entries) / columns) <= room[1]:
            box: dict[str, Any] = {"bbox_to_anchor": (len(spare) / 2 + 0.05, 0.5), "bbox_transform": spare[0].transAxes}
            _name_entries(
                figure.legend(list(entries.values()), _numbers(entries), loc="center", ncols=columns, **box, **_PLAIN),
                *(entries, labels, 26),
            )
            return
    columns = max(
        1, min(len(entries), int(width / (0.45 + 0.067 * max(len(_words(n, labels, LONGEST)) for n in entries))))
    )
    rows = math.ceil(len(entries) / columns)
    columns = math.ceil(len(entries) / rows)  # matplotlib fills columns first: no short ones
    figure.set_size_inches(width * letters(1), (height + 0.165 * (rows + bool(title)) + 0.1) * letters(1))
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": columns, "title": title}
    place["title_fontsize"] = letters(7.5)
    _name_entries(figure.legend(list(entries.values()), _numbers(entries), **place, **_PLAIN), entries, labels, LONGEST)


def add_panel_legend(
    ax: Axes, entries: Mapping[str, Line2D], title: str, labels: Mapping[str, str] | None = None
) -> None:
    """Put a legend into a panel that holds nothing else.

    Args:
        ax: the panel; its axes are turned off.
        entries: lines by what is written beside them.
        title: of the legend.
        labels: what is written instead, with mathematics between dollar signs.
    """
    ax.set_axis_off()
    box: dict[str, Any] = {"bbox_to_anchor": (-0.05, 0.5), "bbox_transform": ax.transAxes, "alignment": "left"}
    font = {"size": letters(7.5), "weight": "bold"}
    named: dict[str, Any] = {"title": title, "title_fontproperties": font, "borderpad": 0.0}
    figure = ax.get_figure(root=True)
    assert figure is not None
    legend = figure.legend(list(entries.values()), _numbers(entries), loc="center left", **box, **named, **_PLAIN)
    legend.set_in_layout(False)
    _name_entries(legend, entries, labels, 26)


_PLAIN: dict[str, Any] = {"frameon": False, "handlelength": 2.6, "columnspacing": 1.4}


def _numbers(entries: Mapping[str, Line2D]) -> list[str]:
    """What stands for labels at first: matplotlib would leave out one that begins with _ and read $ as mathematics."""
    return [str(place) for place in range(len(entries))]


def _words(name: str, labels: Mapping[str, str] | None, longest: int) -> str:
    return (labels or {}).get(name) or printable(name, longest)


def _name_entries(legend: Legend, entries: Iterable[str], labels: Mapping[str, str] | None, longest: int) -> None:
    for text, name in zip(legend.get_texts(), entries, strict=True):
        text.set(text=_words(name, labels, longest), parse_math=name in (labels or {}))
