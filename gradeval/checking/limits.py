"""How far a check goes: its budgets, and what counts as equal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gradeval.arguments import real, whole
from gradeval.errors import GradevalError

EQUAL = 1e-6  # an exact relative bias below this is rounding (of single precision, too)
ENUMERATED_ENTRIES = 2**26  # joint states × points × parameters that are enumerated; it takes a second or two
REPLICATES, LEAST_POINTS = 64, 32
FIRST_POINTS, FIRST_IN_A_LOOP = 512, 128  # of the first look, unless max_draws is below; a loop takes its time
MAX_DRAWS, MAX_CALLS_IN_A_LOOP = 2**23, 2**15  # the most on one problem, unless the user says how many
EDGE_DRAWS, EDGE_DRAWS_IN_A_LOOP = 2**17, 2**11  # the most on a problem at the edge, where an estimator is sampled
RARE = 0.03  # draws are tilted where a state of some unit is rarer
COARSE = 0.05  # first every problem is known this well (or to half of detect); then, where none fails, as claimed
ROWS_AT_ONCE, ENTRIES_AT_ONCE = 2**14, 2**24  # draws, and entries of their gradients, in memory
MAX_SOBOL = torch.quasirandom.SobolEngine.MAXDIM


def check_range(name: str, value: float | None, low: float, high: float, strict: bool = False) -> None:
    """Refuse a number that is out of its range.

    Args:
        name: of the number.
        value: the number; None is accepted.
        low, high: the ends of the range.
        strict: whether ``low`` itself is outside.

    Raises:
        GradevalError: the number is outside.
    """
    value = None if value is None else real(name, value)
    if value is not None and not (low < value <= high if strict else low <= value <= high):
        least = "above" if strict else "at least"
        raise GradevalError(f"{name} must be {least} {low:g} and at most {high:g}, found {value}.")


@dataclass(frozen=True)
class Limits:
    """What a check may spend and how sure it must be.

    Args:
        alpha: the false-alarm rate of all tests and looks together.
        detect: the relative bias of a layer that is to be found with probability 0.99.
        seed: every random number follows from it.
        max_draws: the most draws on one problem; None: `MAX_DRAWS`, or as many as `MAX_CALLS_IN_A_LOOP` calls give.
        edge: whether the problem is at the edge of what is usual: fewer draws are made there, and what these leave
            undecided does not count.

    Raises:
        GradevalError: a number out of its range.
    """

    alpha: float = 1e-6
    detect: float = 0.01
    seed: int = 0
    max_draws: int | None = None
    edge: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole("seed", self.seed))
        if self.max_draws is not None:
            least = REPLICATES * LEAST_POINTS
            object.__setattr__(self, "max_draws", whole("max_draws", self.max_draws, least=least))
        check_range("alpha", self.alpha, 0.0, 0.5, strict=True)
        check_range("detect", self.detect, 0.0, 1.0, strict=True)

    @property
    def coarse(self) -> float:
        """How well, relative to ‖g*‖, every mean gradient is known before any is studied further."""
        return max(COARSE, self.detect / 2)

    @property
    def entries(self) -> int:
        """Joint states × points × parameters that are enumerated."""
        return ENUMERATED_ENTRIES // (8 if self.edge else 1)

    def budget(self, vectorised: bool, repeats: int = 1) -> int:
        """The most draws.

        Args:
            vectorised: whether draws are made all at once.
            repeats: the number of draws that one call makes.

        Returns:
            ``max_draws``, and less at the edge.
        """
        most = self.max_draws or (MAX_DRAWS if vectorised else MAX_CALLS_IN_A_LOOP * repeats)
        if not self.edge:
            return most
        return min(most, EDGE_DRAWS if vectorised else EDGE_DRAWS_IN_A_LOOP)

    def first_points(self, vectorised: bool, repeats: int = 1) -> int:
        """The points of every replicate at the first look.

        Args:
            vectorised: whether draws are made all at once; a loop begins with fewer.
            repeats: the number of draws whose mean one point is.

        Returns:
            A power of two.
        """
        first = FIRST_POINTS if vectorised else max(1, FIRST_IN_A_LOOP // repeats)
        return int(min(first, 2 ** int(math.log2(max(1, self.budget(vectorised, repeats) // (REPLICATES * repeats))))))
