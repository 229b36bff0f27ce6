"""Progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
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


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{1e6 / task.speed:.0f} µs/draw")


class TerminalProgress:
    """A bar per estimator with its rate and the time left; plain lines where standard error is not a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self.bars = console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            disable=not self.bars,
        )
        self.task = TaskID(0)
        self.name, self.draws, self.began = "", 0, 0.0

    def __enter__(self) -> TerminalProgress:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def start(self, estimator: str, draws: int) -> None:
        self.name, self.draws, self.began = estimator, draws, time.perf_counter()
        self.task = self.progress.add_task(escape(f"{estimator:<26}"), total=draws)

    def advance(self, estimator: str, draws: int) -> None:
        self.progress.advance(self.task, draws)

    def finish(self, estimator: str, note: str = "") -> None:
        self.progress.update(self.task, completed=self.draws)
        seconds = time.perf_counter() - self.began
        if not self.bars:
            print(f"{self.name}: {self.draws:,} in {seconds:.1f} s", file=sys.stderr)
        if note:
            self.progress.console.print(f"{self.name}: {note}", markup=False, highlight=False)


@contextmanager
def training_progress() -> Iterator[Callable[[int, int], None]]:
    """A callback (epochs done, epochs in all) that shows a bar once it is called."""
    progress = Progress(
        TextColumn("training the network     "),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    task: TaskID | None = None

    def on_epoch(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            progress.start()
            task = progress.add_task("", total=total)
            if progress.disable:
                print(f"training the network for {total} epochs", file=sys.stderr)
        progress.update(task, completed=done)

    try:
        yield on_epoch
    finally:
        progress.stop()


@contextmanager
def check_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (what is done, done, total) that shows a bar; nothing where standard error is not a terminal."""
    progress = Progress(
        TextColumn("checking"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with progress:
        task = progress.add_task("", total=None)
        yield lambda text, done, total: progress.update(task, description=escape(text), completed=done, total=total)


@contextmanager
def training_table_progress() -> Iterator[Callable[[str, str, int, int], None]]:
    """A callback (estimator, phase, epochs done, epochs in all) that keeps a bar for each estimator and phase."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[tuple[str, str], TaskID] = {}

    def advance(estimator: str, phase: str, done: int, total: int) -> None:
        key = (estimator, phase)
        if key not in tasks:
            tasks[key] = progress.add_task(escape(f"{estimator:<26} {phase:<9}"), total=total)
            if progress.disable:
                print(f"{estimator}: {phase}", file=sys.stderr, flush=True)
        progress.update(tasks[key], completed=done)

    with progress:
        yield advance
