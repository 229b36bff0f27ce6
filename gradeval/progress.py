"""How long work tells of its progress: one contract for evaluations, checks, trainings, sweeps and costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

Advance = Callable[[int], None]
"""Told the number of steps done since it was last told."""


@runtime_checkable
class Progress(Protocol):
    """What long work tells, of any number of tasks at once. A task is known by its name."""

    def start(self, task: str, total: int) -> None:
        """A task of ``total`` steps begins (or begins again, under the same name).

        Args:
            task: its name.
            total: its steps.
        """

    def advance(self, task: str, steps: int) -> None:
        """So many more of its steps are done.

        Args:
            task: its name.
            steps: how many more are done.
        """

    def finish(self, task: str, note: str = "") -> None:
        """It has ended; ``note`` is what the user should know of it.

        Args:
            task: its name.
            note: what the user should know of it.
        """


class Silent:
    """Progress that nobody wants to hear of."""

    def start(self, task: str, total: int) -> None:
        """Say nothing.

        Args:
            task: its name.
            total: its steps.
        """

    def advance(self, task: str, steps: int) -> None:
        """Say nothing.

        Args:
            task: its name.
            steps: how many more are done.
        """

    def finish(self, task: str, note: str = "") -> None:
        """Say nothing.

        Args:
            task: its name.
            note: what the user should know of it.
        """
