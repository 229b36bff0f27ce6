"""Progress on standard error: bars on a terminal, plain lines elsewhere. Long work is announced on both."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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

from gradeval.program.budget import Budget
from gradeval.program.terminal import safe, say, visible
from gradeval.progress import duration_words

LONG = 10.0  # seconds of a task that is announced
SURE = 5.0  # seconds after which the speed of a task is known
MOST_ANNOUNCED = 5  # tasks with a line of their own


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


@dataclass
class _Running:
    """A task that has begun."""

    total: int
    done: int = 0
    told: int = 0  # of its steps, in the last line
    began: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    @property
    def left(self) -> float:
        """Seconds, as the steps so far let expect."""
        return self.elapsed * (self.total - self.done) / self.done


class TerminalProgress:
    """Progress on standard error: a bar for each task on a terminal, plain lines elsewhere. A context manager.

    What is predicted to take long is announced; elsewhere than on a terminal there is a line from time to time, too.

    Args:
        lines: which lines are printed where standard error is not a terminal.
        unit: what a step is; with one, a bar has the time of a step.
        transient: whether the bars vanish at the end.
        budget: refuses what would take too long; by default nothing is refused.
        every: seconds between the lines that say that there is work, where standard error is not a terminal.
    """

    def __init__(
        self,
        *,
        lines: Lines = Lines.AT_END,
        unit: str = "",
        transient: bool = False,
        budget: Budget | None = None,
        every: float = 30.0,
    ) -> None:
        console = Console(stderr=True)
        self.lines = Lines.NEVER if console.is_terminal else lines
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [_Rate(unit)] if unit else []
        columns += [TimeRemainingColumn(compact=True, elapsed_when_finished=True)]
        self.bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=transient)
        self.budget = budget
        self._bar_of: dict[str, TaskID] = {}
        self._running: dict[str, _Running] = {}
        self._expected: dict[str, float] = {}  # seconds of what was last expected and has not ended
        self._known: set[str] = set()  # tasks whose time was predicted, by whoever began them or here
        self._ended = threading.Event()
        self._teller = threading.Thread(target=self._tell, args=(every,), daemon=True)

    def __enter__(self) -> TerminalProgress:
        self.bars.start()
        if not self.bars.console.is_terminal:
            self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.bars.stop()

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Announce tasks that will take long; refuse them where that is beyond the budget.

        Args:
            seconds: predicted, by the task's name.

        Raises:
            TooLong: the budget would be exceeded.
        """
        self._known |= set(seconds)
        self._expected = dict(seconds)
        if self.budget:
            self.budget.check(self._expected)
        long = {task: predicted for task, predicted in seconds.items() if predicted >= LONG}
        if len(long) > MOST_ANNOUNCED or not long:
            long = {"in all": sum(seconds.values())}
        for task, predicted in long.items():
            if predicted >= LONG:
                self._say(f"{task}: about {duration_words(predicted)}")

    def start(self, task: str, total: int) -> None:
        """Show a bar, or the bar of that name from its beginning.

        Args:
            task: its name.
            total: its steps.
        """
        self._running[task] = _Running(total)
        if task in self._bar_of:
            self.bars.reset(self._bar_of[task], total=total)
        else:
            self._bar_of[task] = self.bars.add_task(safe(f"{task:<26}"), total=total)
        if self.lines is Lines.AT_START:
            say(task, sys.stderr)

    def advance(self, task: str, steps: int) -> None:
        """Move a bar on; a task of unknown length is announced, or refused, when its speed is known.

        Args:
            task: that was started.
            steps: how many more are done.

        Raises:
            TooLong: the budget would be exceeded.
        """
        self.bars.advance(self._bar_of[task], steps)
        running = self._running[task]
        running.done += steps
        if task in self._known or running.elapsed < SURE or not 0 < running.done < running.total:
            return
        self._known.add(task)
        if self.budget:
            self.budget.check({**self._expected, task: running.left})
        if running.left >= LONG:
            self._say(f"{task}: about {duration_words(running.elapsed + running.left)}")

    def finish(self, task: str, note: str = "") -> None:
        """Fill a bar, or print the line of a task that has ended.

        Args:
            task: that was started.
            note: printed in a line of its own.
        """
        running = self._running.pop(task)
        self._expected.pop(task, None)
        self.bars.update(self._bar_of[task], completed=running.total)
        if self.lines is Lines.AT_END:
            say(f"{task}: {running.total:,} in {running.elapsed:.1f} s", sys.stderr)
        if note:
            self._say(f"{task}: {note}")

    def _say(self, text: str) -> None:
        self.bars.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def _tell(self, every: float) -> None:
        """From time to time say what is at work; a thread does so, as one step may take long, too."""
        began = time.perf_counter()
        while not self._ended.wait(every):
            running = list(self._running.items())
            moved = [(task, state) for task, state in running if state.done > state.told]
            for task, state in moved or running[-1:]:
                left = f", about {duration_words(state.left)} left" if state.done else ""
                text = f"{task}: {state.done:,} of {state.total:,} after {state.elapsed:.0f} s{left}"
                say(text, sys.stderr)
                state.told = state.done
            if not running:
                say(f"at work for {time.perf_counter() - began:.0f} s", sys.stderr)
