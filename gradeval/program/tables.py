"""Tables on the terminal: what carries meaning is whole in any width; only names and prose are folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from gradeval.program.terminal import visible


class Cell(StrEnum):
    """What a column holds. A name may be folded after a colon or comma, prose between words; the others stay whole."""

    NAME = "name"
    PROSE = "prose"
    WORD = "word"
    NUMBER = "number"


NARROWEST = {Cell.NAME: 16, Cell.PROSE: 12}  # characters, before anything else gives way


def show_table(title: str, columns: Mapping[str, Cell], rows: Iterable[Sequence[str]]) -> None:
    """Print a table.

    Args:
        title: above it.
        columns: the kind of each, by its heading.
        rows: a text for each column; a stranger's is shown and not obeyed. Where the table is too wide, an interval,
            " [low, high]", has a line of its own.
    """
    show_sections(title, columns, {"": rows})


def show_sections(title: str, columns: Mapping[str, Cell], sections: Mapping[str, Iterable[Sequence[str]]]) -> None:
    """Print a table in sections, each below a line of its own.

    Args:
        title: above it.
        columns: the kind of each, by its heading.
        sections: rows, as of `show_table`, by the line above them.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    room = Console().width
    cells = {line: [[visible(cell) for cell in row] for row in rows] for line, rows in sections.items()}
    gap, widths = _fitted(columns, cells, room)
    if sum(widths) + gap * (len(widths) - 1) > room:
        cells = {line: [[cell.replace(" [", "\n[") for cell in row] for row in rows] for line, rows in cells.items()}
        gap, widths = _fitted(columns, cells, room)
    console = Console(width=max(room, sum(widths) + gap * (len(widths) - 1)))
    if title:
        Console().print(Text(visible(title), style="italic"))
    for place, (line, rows) in enumerate(cells.items()):
        if line:
            console.print(Text(visible(line), style="italic"))
        look: dict[str, Any] = {
            "box": SIMPLE_HEAD,
            "show_edge": False,
            "pad_edge": False,
            "padding": (0, gap - 1, 0, 0),
        }
        table = Table(**look, show_header=place == 0)
        for (heading, kind), width in zip(columns.items(), widths, strict=True):
            side: Any = "right" if kind is Cell.NUMBER else "left"
            table.add_column(Text(heading), overflow="fold", justify=side, width=width)
        for row in rows:
            table.add_row(*map(Text, _folded(columns, row, widths)))
        console.print(table)


def _fitted(
    columns: Mapping[str, Cell], sections: Mapping[str, Sequence[Sequence[str]]], room: int
) -> tuple[int, list[int]]:
    """The gap between columns, and how wide each is; where that is too much names and prose share what is left."""
    rows = [row for rows in sections.values() for row in rows]
    wide = _longest([[heading] for heading in columns], rows)
    if sum(wide) + 2 * (len(wide) - 1) <= room:
        return 2, wide
    widths = _longest([heading.split() for heading in columns], rows)
    left = room - (len(widths) - 1) - sum(widths)
    folding = sorted((widths[place], place) for place, kind in enumerate(columns.values()) if kind in NARROWEST)
    left += sum(wanted for wanted, _ in folding)
    for number, (wanted, place) in enumerate(folding):
        share = max(left // (len(folding) - number), NARROWEST[list(columns.values())[place]])
        widths[place] = min(wanted, share)
        left -= widths[place]
    return 1, widths


def _longest(headings: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column the longest line of a cell or a heading."""
    from rich.cells import cell_len

    columns = zip(headings, *([cell.split("\n") for cell in row] for row in rows), strict=True)
    return [max(cell_len(line) for lines in column for line in lines) for column in columns]


def _folded(columns: Mapping[str, Cell], row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        folded(cell, width) if kind is Cell.NAME else cell
        for cell, kind, width in zip(row, columns.values(), widths, strict=True)
    ]


def folded(name: str, width: int) -> str:
    """A name on several lines, broken after a colon, comma or slash where that is possible.

    Args:
        name: any.
        width: of a line.

    Returns:
        The lines.

    Examples:
        >>> print(folded("gumbel-rao:temperature=0.1,samples=10", 20))
        gumbel-rao:
        temperature=0.1,
        samples=10
    """
    lines = [""]
    for piece in re.split(r"(?<=[:,/|])", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)
