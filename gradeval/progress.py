"""How long work reports its progress: one contract for evaluations, checks, trainings, sweeps and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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


@runtime_checkable
class Foresight(Protocol):
    """What a `Progress` may offer besides: it is told how long tasks will take before they begin."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Tasks are about to begin; nothing of them is done yet.

        Args:
            seconds: predicted, by the task's name.

        Raises:
            TooLong: they are not to be done.
        """


def foretell(progress: object, predict: Callable[[], Mapping[str, float]]) -> None:
    """Tell how long tasks will take, if anybody wants to know: a prediction may itself take a second.

    Args:
        progress: a `Progress` or None; it is told if it has `Foresight`.
        predict: gives the seconds by the task's name.

    Raises:
        TooLong: the tasks are not to be done.
    """
    if isinstance(progress, Foresight):
        progress.expect(predict())


def duration_words(seconds: float) -> str:
    """A duration as words, in the unit that suits it.

    Args:
        seconds: not negative.

    Returns:
        Three digits, and the unit.

    Examples:
        >>> [duration_words(seconds) for seconds in (59.6, 300.0, 9000.0, 1e12)]
        ['59.6 seconds', '5 minutes', '2.5 hours', '3.17e+04 years']
    """
    if seconds == math.inf:
        return "more years than can be counted"
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"


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
