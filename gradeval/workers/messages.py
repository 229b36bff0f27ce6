"""Progress in another process: what it sends to the program, and how the program passes it on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gradeval.progress import Progress

SEND_SECONDS = 0.5  # a process tells of its steps no more often than this


class Told(Protocol):
    """Something that a process tells of its progress."""

    def pass_on(self, progress: Progress) -> None:
        """Tell it.

        Args:
            progress: whom.
        """


@dataclass(frozen=True)
class Started:
    """A task begins.

    Args:
        task, total: as of `Progress.start`.
    """

    task: str
    total: int

    def pass_on(self, progress: Progress) -> None:
        """As of `Told`.

        Args:
            progress: that is told.
        """
        progress.start(self.task, self.total)


@dataclass(frozen=True)
class Advanced:
    """More steps of a task are done.

    Args:
        task, steps: as of `Progress.advance`.
    """

    task: str
    steps: int

    def pass_on(self, progress: Progress) -> None:
        """As of `Told`.

        Args:
            progress: that is told.
        """
        progress.advance(self.task, self.steps)


@dataclass(frozen=True)
class Finished:
    """A task has ended.

    Args:
        task, note: as of `Progress.finish`.
    """

    task: str
    note: str

    def pass_on(self, progress: Progress) -> None:
        """As of `Told`.

        Args:
            progress: that is told.
        """
        progress.finish(self.task, self.note)


class Sender:
    """Progress in a process: it is sent to the program, steps a few at a time.

    Args:
        send: sends one message.
    """

    def __init__(self, send: Callable[[Told], None]) -> None:
        self._send = send
        self._steps: dict[str, int] = {}
        self._last = 0.0

    def start(self, task: str, total: int) -> None:
        """As of `Progress`.

        Args:
            task, total: of it.
        """
        self.send_steps()
        self._send(Started(task, total))

    def advance(self, task: str, steps: int) -> None:
        """As of `Progress`.

        Args:
            task, steps: of it.
        """
        self._steps[task] = self._steps.get(task, 0) + steps
        if time.monotonic() - self._last > SEND_SECONDS:
            self.send_steps()

    def finish(self, task: str, note: str = "") -> None:
        """As of `Progress`.

        Args:
            task, note: of it.
        """
        self.send_steps()
        self._send(Finished(task, note))

    def send_steps(self) -> None:
        """Send what steps have not been sent yet."""
        for task, steps in self._steps.items():
            self._send(Advanced(task, steps))
        self._steps.clear()
        self._last = time.monotonic()
