"""What states too rare to be drawn could contribute to a gradient: known from the network, without sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradeval.analysis.statistics import Array

COLUMNS = 5


class Missing(NamedTuple):
    """What may be missing in draws, since states are too rare to be drawn.

    Attributes:
        mean: the norm that may be missing in the mean gradient.
        square: what may be missing in E‖g‖².
        share: of draws with such a state, at most.
    """

    mean: float
    square: float
    share: float


@dataclass(frozen=True)
class RareStates:
    """How probable states are whose gradients have a given size, by layer.

    The size of a state at one data point is that of REINFORCE's gradient there with the largest loss that any state has
    (`reference.rare`): an estimator whose draws move between states changes by about as much. In large networks it is
    that of the estimator's own gradient (`reference.own_rare`).

    Attributes:
        layers: their names.
        points: N, the number of data points, which share a draw: the draw is their mean.
        cells: states of about the same probability and size together, the largest first, [cells, 5]: the number of the
            layer; the probability of a state, at least; the expected number of points per draw that are in such a
            state; the sums of probability × size and probability × size² over points and states.
        usual: the mean size at the point where it is largest, by layer, [K].
    """

    layers: list[str]
    points: int
    cells: Array
    usual: Array

    def unseen(self, layer: str, draws: int, level: float) -> Missing:
        """What may be missing in some draws.

        Events of an expected number below log(1/level) per run go unseen with a probability above ``level``. The
        largest gradients that are together as rare as that are taken to be missing; no state that is more probable
        than that by itself. Others stand in their place in the mean, whose gradients are of the usual size.

        Args:
            layer: its name.
            draws: n.
            level: of a test or interval.

        Returns:
            It, in the units of the gradient and of its square.
        """
        allowed = math.log(1 / level) / draws
        which = (self.cells[:, 0] == self.layers.index(layer)) & (self.cells[:, 1] < allowed)
        rate, size, square = self.cells[which, 2:].T
        before = np.cumsum(rate) - rate
        share = np.clip((allowed - before) / np.where(rate > 0, rate, 1.0), 0.0, 1.0)
        instead = float(share @ rate) * float(self.usual[self.layers.index(layer)])
        mean, squares = (float(share @ size) + instead) / self.points, float(share @ square) / self.points**2
        return Missing(mean, squares, min(1.0, float(share @ rate)))


NOTHING_RARE = Missing(0.0, 0.0, 0.0)
