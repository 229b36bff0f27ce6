"""What a notebook shows: problems, networks and verdicts as small tables, and progress as bars."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from html import escape
from typing import Any


def card(title: str, facts: Mapping[str, Any], text: str = "") -> str:
    """A title, a table of facts and a text as HTML; all are escaped, since they may be a stranger's.

    Args:
        title: in bold.
        facts: the value by what it is.
        text: shown as it is, in letters of equal width.

    Returns:
        The HTML.

    Examples:
        >>> card("psa", {"draws": 20})
        '<b>psa</b><table><tr><th style="text-align: left">draws</th><td style="text-align: left">20</td></tr></table>'
    """
    left = 'style="text-align: left"'
    cells = (f"<th {left}>{escape(key)}</th><td {left}>{escape(str(value))}</td>" for key, value in facts.items())
    rows = "".join(f"<tr>{cell}</tr>" for cell in cells)
    table = f"<table>{rows}</table>" if rows else ""
    return f"<b>{escape(title)}</b>{table}" + (f"<pre>{escape(text)}</pre>" if text else "")


class Bars:
    """Progress as bars of tqdm, in a notebook as in a terminal: what ``progress=True`` means."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}
        self._lock = threading.Lock()

    def start(self, task: str, total: int) -> None:
        """Show a bar.

        Args:
            task, total: as of `gradeval.progress.Progress`.
        """
        from tqdm.auto import tqdm

        with self._lock:
            self._bars[task] = tqdm(total=total, desc=task)

    def advance(self, task: str, steps: int) -> None:
        """Move a bar on.

        Args:
            task, steps: as of `gradeval.progress.Progress`.
        """
        with self._lock:
            self._bars[task].update(steps)

    def finish(self, task: str, note: str = "") -> None:
        """Fill a bar, and show the note beside it.

        Args:
            task, note: as of `gradeval.progress.Progress`.
        """
        with self._lock:
            bar = self._bars.pop(task)
            bar.update(bar.total - bar.n)
            if note:
                bar.set_postfix_str(note)
            bar.close()
