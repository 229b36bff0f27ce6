"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from enum import Enum, auto
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from gradeval.program.terminal import safe, say, visible


class Lines(Enum):
    """When a task has a line of its own, where standard error is not a terminal."""

    AT_START = auto()
    AT_END = auto()
    NEVER = auto()


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{1e6 / task.speed:.0f} µs/{self.unit}" if task.speed else "")


class TerminalProgress:
    """Progress on standard error: a bar for each task on a terminal, plain lines elsewhere. A context manager.

    Args:
        lines: which lines are printed where standard error is not a terminal.
        unit: what a step is; with one, a bar has the time of a step.
        transient: whether the bars vanish at the end.
    """

    def __init__(self, *, lines: Lines = Lines.AT_END, unit: str = "", transient: bool = False) -> None:
        console = Console(stderr=True)
        self.lines = Lines.NEVER if console.is_terminal else lines
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [_Rate(unit)] if unit else []
        columns += [TimeRemainingColumn(compact=True, elapsed_when_finished=True)]
        self.bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=transient)
        self._bar_of: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[int, float]] = {}  # steps, and when

    def __enter__(self) -> TerminalProgress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, task: str, total: int) -> None:
        """Show a bar, or the bar of that name from its beginning.

        Args:
            task: its name.
            total: its steps.
        """
        self._begun[task] = total, time.perf_counter()
        if task in self._bar_of:
            self.bars.reset(self._bar_of[task], total=total)
        else:
            self._bar_of[task] = self.bars.add_task(safe(f"{task:<26}"), total=total)
        if self.lines is Lines.AT_START:
            say(task, sys.stderr)

    def advance(self, task: str, steps: int) -> None:
        """Move a bar on.

        Args:
            task: that was started.
            steps: how many more are done.
        """
        self.bars.advance(self._bar_of[task], steps)

    def finish(self, task: str, note: str = "") -> None:
        """Fill a bar, or print the line of a task that has ended.

        Args:
            task: that was started.
            note: printed in a line of its own.
        """
        total, began = self._begun[task]
        self.bars.update(self._bar_of[task], completed=total)
        if self.lines is Lines.AT_END:
            say(f"{task}: {total:,} in {time.perf_counter() - began:.1f} s", sys.stderr)
        if note:
            self.bars.console.print(visible(f"{task}: {note}"), markup=False, highlight=False)
