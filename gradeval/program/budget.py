"""How long a command may take before it must be asked for: the one owner of this rule.

Only commands refuse work for its time; the functions of the library never do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated

import typer

from gradeval.errors import TooLong
from gradeval.progress import duration_words

HOUR = 3600.0
NEARLY_DONE = 0.1  # of the limit: so little more is not refused

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Also do what is predicted to take longer than an hour.")]
MaxSeconds = Annotated[
    float | None,
    typer.Option(min=0.0, help="Refuse what is predicted to take more seconds in all; 3600 if not given."),
]


class Budget:
    """The seconds that a command may take, from now on.

    Args:
        yes: whether there is no limit.
        max_seconds: the limit; None: an hour.
        fewer: what would take less time, as it stands in a message.
    """

    def __init__(self, yes: bool, max_seconds: float | None, fewer: str) -> None:
        self.limit = math.inf if yes else HOUR if max_seconds is None else max_seconds
        self.fewer = fewer
        self._began = time.perf_counter()

    def check(self, seconds: Mapping[str, float]) -> None:
        """Refuse what would take too long together with what was done already.

        Args:
            seconds: predicted of what is left to do, by the task's name.

        Raises:
            TooLong: the limit is exceeded; the message names the time, what takes it, and what to do.
        """
        left = sum(seconds.values())
        total = time.perf_counter() - self._began + left
        if total <= self.limit or left <= NEARLY_DONE * self.limit:
            return
        longest = max(seconds, key=seconds.__getitem__)
        raise TooLong(
            f"predicted to take {duration_words(total)} (of which {longest}: {duration_words(seconds[longest])}), the "
            f"limit is {duration_words(self.limit)}: add --yes to do it all the same, raise --max-seconds, or take "
            f"{self.fewer}."
        )
