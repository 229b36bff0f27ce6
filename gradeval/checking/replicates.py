"""Independent replicates of an estimator's mean gradient, each from a low-discrepancy sequence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradeval.checking.limits import ENTRIES_AT_ONCE, MAX_SOBOL, REPLICATES, ROWS_AT_ONCE
from gradeval.errors import GradevalError
from gradeval.model.randomness import derived_seed, generator
from gradeval.reference import ExactGradient
from gradeval.sampling.sampler import Sampler


class Replicates:
    """Means over the points of independently scrambled Sobol sequences that stand for an estimator's uniform variables.

    The digits beyond a point's 30 are random, so that every variable is uniform as exactly as a random one.

    Args:
        sampler: of the estimator.
        truth: g* and J, which draws are compared with.
        uniforms: the number of uniform variables that one draw takes.
        seed: what the scrambles and further chance follow from.

    Attributes:
        points: of every replicate so far.
        looks: how often points were added.
        largest: the largest ‖g − g*‖² of a draw by layer, and the largest squared error of the value.
    """

    def __init__(self, sampler: Sampler, truth: ExactGradient, uniforms: int, seed: tuple[object, ...]) -> None:
        self.sampler, self.truth = sampler, truth
        self.uniforms = uniforms if uniforms <= MAX_SOBOL else 0
        self.random = generator(sampler.problem.network.device, *seed, "replicates")
        self.engines = [
            torch.quasirandom.SobolEngine(self.uniforms, scramble=True, seed=derived_seed(*seed, "scramble", r))
            for r in range(REPLICATES if self.uniforms else 0)
        ]
        self.points = self.looks = 0
        self.sums: list[Tensor] = []
        self.largest = np.zeros(0)

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
            rows = torch.empty(REPLICATES * count, 0, dtype=dtype)
        gradients, values = self.sampler.given(rows, self.random)
        if not bool(torch.isfinite(values).all()):
            raise GradevalError(
                f"gave NaN or infinite values in {int((~torch.isfinite(values)).sum())} of {len(values)} draws"
            )
        errors = (gradients - self.truth.vector) ** 2
        layers = [errors[:, w].sum(1) for w in self.truth.slices.values()]
        squares = torch.stack([*layers, (values - self.truth.value).reshape(-1) ** 2], 1)
        parts = [part.reshape(REPLICATES, count, -1).sum(1) for part in (gradients, values, squares)]
        largest = squares.amax(0).cpu().numpy()
        self.largest = np.maximum(self.largest, largest) if self.sums else largest
        self.sums = [a + b for a, b in zip(self.sums, parts, strict=True)] if self.sums else parts

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The means of every replicate over its draws so far.

        Returns:
            The gradient, [replicates, P]; the value, [replicates]; and the squares, [replicates, layers + 1], which are
            ‖g − g*‖² by layer and, in the last column, the value's squared error.
        """
        gradients, values, squares = ((total / self.points).cpu().numpy() for total in self.sums)
        return gradients, values[:, 0], squares
