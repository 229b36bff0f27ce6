"""How long work reports its progress: one contract for evaluations, checks, trainings, sweeps and costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

Advance = Callable[[int], None]
"""A callback for progress: it is called with the number of steps done since it was last called."""


@runtime_checkable
class Progress(Protocol):
    """What receives the progress of long work, of any number of tasks at once. A task is known by its name."""

    def start(self, task: str, total: int) -> None:
        """A task begins, or begins again under the same name.

        Args:
            task: its name.
            total: the number of its steps.
        """

    def advance(self, task: str, steps: int) -> None:
        """More steps of a task are done.

        Args:
            task: its name.
            steps: how many more.
        """

    def finish(self, task: str, note: str = "") -> None:
        """A task has ended.

        Args:
            task: its name.
            note: what the user should know of it; empty for nothing.
        """


class Silent:
    """Progress that is not shown."""

    def start(self, task: str, total: int) -> None:
        """Show nothing.

        Args:
            task, total: as of `Progress`.
        """

    def advance(self, task: str, steps: int) -> None:
        """Show nothing.

        Args:
            task, steps: as of `Progress`.
        """

    def finish(self, task: str, note: str = "") -> None:
        """Show nothing.

        Args:
            task, note: as of `Progress`.
        """
