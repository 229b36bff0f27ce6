"""What states too rare to be drawn could contribute to a gradient: known from the network, without sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradeval.analysis.statistics import Array

BINS, RATIO, SMALLEST = 640, 1.25, 1e-32
"""Sizes are kept in bins from SMALLEST on, each RATIO times the one before."""


@dataclass(frozen=True)
class RareStates:
    """How probable states are whose gradients have a given size, by layer.

    The size of a state at one data point is that of REINFORCE's gradient there with the largest loss that any state has
    (`reference.rare`): an estimator whose draws move between states changes by about as much.

    Attributes:
        layers: their names.
        points: N, the number of data points, which share a draw: the draw is their mean.
        sums: by layer and bin of size: expected number of points per draw that are in such a state, and the sums of
            probability × size and probability × size² over points and states, [K, BINS, 3].
    """

    layers: list[str]
    points: int
    sums: Array

    def unseen(self, layer: str, draws: int, level: float) -> tuple[float, float]:
        """What may be missing in the mean and in the mean square of some draws.

        Events of an expected number below log(1/level) per run go unseen with a probability above ``level``. The
        largest gradients that are together as rare as that are taken to be missing.

        Args:
            layer: its name.
            draws: n.
            level: of a test or interval.

        Returns:
            U, the norm that may be missing in the mean gradient, and V, what may be missing in E‖g‖².
        """
        rate, size, square = self.sums[self.layers.index(layer)][::-1].T  # the largest first
        allowed = math.log(1 / level) / draws
        before = np.cumsum(rate) - rate
        share = np.clip((allowed - before) / np.where(rate > 0, rate, 1.0), 0.0, 1.0)
        return float(share @ size) / self.points, float(share @ square) / self.points**2


NOTHING_RARE = (0.0, 0.0)
