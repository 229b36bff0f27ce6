"""Independent replicates of an estimator's mean gradient, each from a low-discrepancy sequence."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.checking.limits import ENTRIES_AT_ONCE, MAX_SOBOL, REPLICATES, ROWS_AT_ONCE
from gradeval.errors import GradevalError
from gradeval.model.randomness import derived_seed, generator
from gradeval.reference import ExactGradient
from gradeval.sampling.sampler import Sampler

MAX_TILTED = 2**10  # beyond, each variable would hardly ever be the one
NEAREST = 1e-10  # to 0 or 1, of a tilted variable
MOST_WEIGHT = 2.0  # of a tilted draw
OCTAVES = 128  # of sizes, around 1
TOP = 3  # octaves of the largest draws
MET = 20  # of these, counted by their weights, that show which weights they have


def tilt(rows: Float[Tensor, "draws width"]) -> tuple[Float[Tensor, "draws given"], Float[Tensor, "draws 1"]]:
    """Let one variable in half of the draws be near 0 or 1, at all scales alike.

    Args:
        rows: uniform variables; the last two of each draw choose whether, and which, variable is tilted.

    Returns:
        The rows without these two, and the weight of each draw: the uniform density over the mixture's.

    Examples:
        >>> rows, weights = tilt(torch.rand(10_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        >>> rows.shape, abs(weights.mean().item() - 1) < 0.05, weights.max().item() <= 2
        (torch.Size([10000, 1]), True, True)
    """
    given, whether, which = rows[:, :-2].clone(), rows[:, -2] < 0.5, rows[:, -1]
    count, scale = given.shape[1], math.log(0.5 / NEAREST)
    index = (which * count).long().clamp(max=count - 1)[:, None]
    chosen = given.gather(1, index)
    side = chosen < 0.5
    distance = 0.5 * torch.exp(-scale * torch.where(side, 2 * chosen, 2 - 2 * chosen))
    near = torch.where(side, distance, 1 - distance)
    given = torch.where(whether[:, None], given.scatter(1, index, near), given)
    end = torch.minimum(given, 1 - given)
    # the density 1/(2 scale · distance) of a variable, averaged over which of them is tilted
    tilted = torch.where(end >= NEAREST, 1 / (2 * scale * end), 0.0).mean(1, keepdim=True)
    return given, 1 / (0.5 + 0.5 * tilted)


class Replicates:
    """Means over the points of independently scrambled Sobol sequences that stand for an estimator's uniform variables.

    The digits beyond a point's 30 are random, so that every variable is uniform as exactly as a random one.

    An event that takes a variable near 0 or 1 (a rare state) may be too rare for plain draws. So draws may be tilted:
    in half of them one variable, chosen at random, has a density that is inverse to its distance from the nearer end,
    so that every decade of probabilities down to 10⁻¹⁰ is seen alike. A weight, at most 2, undoes this in the means
    (a defensive mixture: Hesterberg, Technometrics 37, 1995, doi:10.2307/1269620).

    Where a large draw takes one variable near an end (ARM's), it is met often, with a small weight. Where it takes
    several at once (those of ARMS: the others' exponentials are small), it may be met a few times with small weights,
    and what it does to the mean comes with weights of about 1 and is not met. So the largest draws are taken at the
    largest weight, unless they are seen to have small ones: by 20 of them, (Σw)²/Σw² of the upper three octaves.

    Args:
        sampler: of the estimator.
        truth: g* and J, which draws are compared with.
        uniforms: the number of uniform variables that one draw takes.
        seed: what the scrambles and further chance follow from.
        tilted: whether rare events are drawn more often.
        independent: whether all draws are independent ones, for estimators that remember: in place of Sobol sequences,
            whose points follow from the points before.

    Attributes:
        points: of every replicate so far.
        looks: how often points were added.
    """

    def __init__(
        self,
        sampler: Sampler,
        truth: ExactGradient,
        uniforms: int,
        seed: tuple[object, ...],
        *,
        tilted: bool = False,
        independent: bool = False,
    ) -> None:
        self.sampler, self.truth = sampler, truth
        self.tilted = tilted and 0 < uniforms <= MAX_TILTED
        self.independent = independent
        self.uniforms = uniforms + 2 * self.tilted if uniforms <= MAX_SOBOL else 0
        self.random = generator(sampler.problem.network.device, *seed, "replicates")
        self.engines = [
            torch.quasirandom.SobolEngine(self.uniforms, scramble=True, seed=derived_seed(*seed, "scramble", r))
            for r in range(REPLICATES if self.uniforms and not independent else 0)
        ]
        self.points = self.looks = 0
        self.sums: list[Tensor] = []
        layers = len(truth.slices) + 1
        self._weights = np.zeros((2, layers, OCTAVES))  # Σw and Σw² of draws by layer and octave of their size
        self._largest = np.zeros((3, layers))  # s², w²s² and ws² of any draw, s its size

    def add(self, points: int) -> None:
        """Add points to every replicate; this counts as a look.

        Args:
            points: how many more, of each replicate.

        Raises:
            GradevalError: a draw's gradient or value is NaN or infinite.
        """
        rows = min(ROWS_AT_ONCE, ENTRIES_AT_ONCE // len(self.truth.vector))
        at_once = max(1, rows // REPLICATES)
        for start in range(0, points, at_once):
            self._add(min(at_once, points - start))
        self.points += points
        self.looks += 1

    def _add(self, count: int) -> None:
        dtype = self.sampler.problem.network.dtype
        if self.engines:
            rows = torch.cat([engine.draw(count, dtype=dtype) for engine in self.engines])
            below_one = 1 - torch.finfo(dtype).eps / 2
            rows = (rows + 2.0**-30 * torch.rand(rows.shape, generator=self.random, dtype=dtype)).clamp(
                2.0**-54, below_one
            )
        else:
            width = self.uniforms if self.tilted else 0
            rows = torch.rand(REPLICATES * count, width, generator=self.random, dtype=dtype)
        weights = torch.ones(len(rows), 1, dtype=dtype)
        if self.tilted:
            rows, weights = tilt(rows)
        gradients, values = self.sampler.given(rows, self.random)
        if not bool(torch.isfinite(values).all()):
            raise GradevalError(
                f"gave NaN or infinite values in {int((~torch.isfinite(values)).sum())} of {len(values)} draws"
            )
        # the weights have mean 1: they are put on the errors, which vary less than what these are errors of
        gradients, values = gradients - self.truth.vector, values.reshape(-1, 1) - self.truth.value
        squares = torch.cat([gradients[:, w].square().sum(1, True) for w in self.truth.slices.values()], 1)
        squares = torch.cat([squares, values.square()], 1)
        self._note_sizes(squares.cpu(), weights.cpu())
        means = (weights * gradients + self.truth.vector, weights * values + self.truth.value, weights * squares)
        parts = [part.reshape(REPLICATES, count, -1).sum(1) for part in means]
        self.sums = [a + b for a, b in zip(self.sums, parts, strict=True)] if self.sums else parts

    def _note_sizes(self, squares: Tensor, weights: Tensor) -> None:
        """Keep how large draws are, and with which weights."""
        found = torch.stack([squares, weights**2 * squares, weights * squares]).amax(1).numpy()
        self._largest = np.maximum(self._largest, found)
        octave = (squares.clamp(min=1e-300).log2() / 2 + OCTAVES // 2).long().clamp(0, OCTAVES - 1)
        for power, kept in enumerate(self._weights, 1):
            for layer, row in enumerate(kept):
                row += torch.bincount(octave[:, layer], weights[:, 0] ** power, OCTAVES).numpy()

    def largest(self, power: int = 1) -> np.ndarray:
        """How much one draw adds to a sum over draws, at most, as far as is known.

        Args:
            power: 1, to the sum of the gradients' and the value's errors; 2, to that of their squares.

        Returns:
            The largest w‖g − g*‖^power by layer, and of the value's error in the last place; with w = 2 where draws are
            tilted and the largest are not seen to have other weights.
        """
        weights = np.cumsum(self._weights[..., ::-1], -1)  # from the highest octave on
        last = np.minimum((weights[0] > 0).argmax(-1) + TOP - 1, OCTAVES - 1)
        total, square = (np.take_along_axis(w, last[:, None], -1)[:, 0] for w in weights)
        met = total**2 >= MET * square
        size = np.sqrt(self._largest[0]) ** power
        weighted = np.sqrt(self._largest[1]) if power == 1 else self._largest[2]
        return np.where(met | (not self.tilted), weighted, MOST_WEIGHT * size)

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The means of every replicate over its draws so far.

        Returns:
            The gradient, [replicates, P]; the value, [replicates]; and the squares, [replicates, layers + 1], which are
            ‖g − g*‖² by layer and, in the last column, the value's squared error.
        """
        gradients, values, squares = ((total / self.points).cpu().numpy() for total in self.sums)
        return gradients, values[:, 0], squares
