"""Progress on standard error: plain lines where it is not a terminal, bars where it is."""

from __future__ import annotations

import re
import time

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


def test_long_work_is_announced_where_there_is_no_terminal(capsys, monkeypatch) -> None:
    """Planted: lines for what is short."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with TerminalProgress(lines=Lines.NEVER) as progress:
        progress.expect({"exact gradient": 60.0, "st": 2.0})
        progress.expect({"st": 2.0})
        progress.expect({f"estimator {i}": 20.0 for i in range(300)})
        progress.expect({f"estimator {i}": 1.0 for i in range(30)})
    assert (
        capsys.readouterr().err
        == "exact gradient: about 60 seconds\nin all: about 100 minutes\nin all: about 30 seconds\n"
    )


def test_work_of_unknown_length_is_announced_when_its_speed_is_known(capsys, monkeypatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr("gradeval.program.progress.SURE", 0.05)
    with TerminalProgress(lines=Lines.NEVER) as progress:
        progress.start("training the network", 1000)
        progress.start("quick", 10)
        time.sleep(0.06)
        for _ in range(3):
            progress.advance("training the network", 1)
            progress.advance("quick", 1)
    assert re.fullmatch(r"training the network: about [\d.]+ (seconds|minutes)\n", capsys.readouterr().err)


def test_there_is_a_line_from_time_to_time(capsys, monkeypatch) -> None:
    """Also where no step ends for long, and where no task has begun. Planted: a line at each step only."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with TerminalProgress(lines=Lines.NEVER, every=0.05) as progress:
        time.sleep(0.2)
        progress.start("st", 100)
        time.sleep(0.2)
        progress.advance("st", 50)
        time.sleep(0.2)
        progress.finish("st")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "at work for 0 s"
    assert "st: 0 of 100 after 0 s" in lines
    assert any(re.fullmatch(r"st: 50 of 100 after 0 s, about [\d.]+ seconds left", line) for line in lines)
