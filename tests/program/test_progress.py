"""Progress on standard error: plain lines where it is not a terminal, bars where it is."""

from __future__ import annotations

import re

import pytest

from gradeval.program.progress import Lines, TerminalProgress
from gradeval.progress import Progress


def tell(progress: Progress) -> None:
    """Two tasks at once, one of which begins again; one ends with a note."""
    progress.start("a", 1000)
    progress.start("[b]", 2)
    progress.advance("a", 10)
    progress.start("a", 2000)
    progress.advance("[b]", 2)
    progress.finish("[b]", "damaged [chunk]")
    progress.finish("a")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (Lines.AT_START, "a\n\\[b\\]\na\n\\[b\\]: damaged \\[chunk\\]\n"),
        (Lines.AT_END, "\\[b\\]: 2 in 0\\.0 s\n\\[b\\]: damaged \\[chunk\\]\na: 2,000 in 0\\.0 s\n"),
        (Lines.NEVER, "\\[b\\]: damaged \\[chunk\\]\n"),
    ],
)
def test_lines_where_there_is_no_terminal(lines: Lines, expected: str, capsys, monkeypatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with TerminalProgress(lines=lines) as progress:
        tell(progress)
    captured = capsys.readouterr()
    assert re.fullmatch(expected, captured.err), captured.err
    assert not captured.out


def test_a_bar_for_each_task_on_a_terminal(capsys, monkeypatch) -> None:
    """Planted fault: a second bar for a task that begins again, and brackets that vanish as markup."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with TerminalProgress(unit="draw") as progress:
        tell(progress)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).rstrip().splitlines()
    assert "[b]: damaged [chunk]" in shown
    assert [line.split()[0] for line in shown[-2:]] == ["a", "[b]"]
    assert "2000/2000" in shown[-2]
    assert not any("in 0.0 s" in line for line in shown)
