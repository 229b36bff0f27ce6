"""Progress in another process: what it sends to the program, and how the program passes it on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gradeval.progress import Progress

SEND_SECONDS = 0.5  # a process tells of its steps no more often than this


@dataclass(frozen=True)
class Told:
    """Something that a process tells of its progress: a call of `Progress`.

    Args:
        method: its name.
        arguments: of the call.
    """

    method: Literal["start", "advance", "finish"]
    arguments: tuple[Any, ...]

    def pass_on(self, progress: Progress) -> None:
        """Make the call.

        Args:
            progress: that is told.
        """
        getattr(progress, self.method)(*self.arguments)


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
        self._send(Told("start", (task, total)))

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
        self._send(Told("finish", (task, note)))

    def send_steps(self) -> None:
        """Send what steps have not been sent yet."""
        for task, steps in self._steps.items():
            self._send(Told("advance", (task, steps)))
        self._steps.clear()
        self._last = time.monotonic()
